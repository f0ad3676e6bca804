//! API-HUB patch: the exchange with an HTTP/1 upstream of a request that has no body: one loop instead of two halves that
//! talk through channels. What `proxy_handle_downstream` and `proxy_handle_upstream` do for such a request, in their order.
//!
//! It refuses bodies, upgrades, caches and custom protocols: those need both halves.

use super::*;
use crate::proxy_cache::range_filter::RangeBodyFilter;
use crate::proxy_cache::ServeFromCache;
use crate::proxy_common::ResponseStateMachine;
use crate::proxy_h1::send_body_to1;

impl<SV, C> HttpProxy<SV, C>
where
    C: custom::Connector,
{
    /// Whether `exchange_without_body` may serve this request, whose head has been sent.
    pub(crate) fn is_without_body(
        session: &mut Session,
        client_session: &HttpSessionV1,
    ) -> bool {
        !session.cache.enabled()
            && !session.cache.bypassing()
            && !session.downstream_session.is_custom()
            && !client_session.is_upgrade_req()
            && !session.was_upgraded()
            && session.as_ref().get_retry_buffer().is_none()
            && session.as_mut().is_body_empty()
            && session.as_mut().is_body_done()
    }

    /// Whether the client's connection may be used again, and whether the upstream's may.
    pub(crate) async fn exchange_without_body(
        &self,
        session: &mut Session,
        client_session: &mut HttpSessionV1,
        ctx: &mut SV::CTX,
    ) -> Result<(bool, bool)>
    where
        SV: ProxyHttp + Send + Sync,
        SV::CTX: Send + Sync,
    {
        // The filters hear of the end of the body, and may make one up.
        let mut body = None;
        session
            .downstream_modules_ctx
            .request_body_filter(&mut body, true)
            .await?;
        self.inner
            .request_body_filter(session, &mut body, true, ctx)
            .await?;
        let sent = send_body_to1(client_session, Some(HttpTask::Body(body, true))).await;
        // A complete answer is passed on even so, but then this connection has seen half a request.
        let mut upstream_can_reuse = sent.is_ok();
        let mut send_error = sent.err();
        if let Some(e) = &send_error {
            warn!("send error, draining read buf: {e}");
        }

        let mut serve_from_cache = ServeFromCache::new();
        let mut range_body_filter = RangeBodyFilter::new();
        let mut response_state = ResponseStateMachine::new();
        let mut upstream_done = false;
        let mut is_client_watched = true;
        while !upstream_done {
            let mut read = tokio::select! {
                biased;
                idle = session.downstream_session.read_body_or_idle(true), if is_client_watched => {
                    if let Err(e) = idle {
                        return Err(e.into_down());
                    }
                    is_client_watched = false;
                    continue;
                }
                read = client_session.read_response_task() => read,
            };
            // What is there already goes out in one piece.
            let mut tasks = Vec::with_capacity(TASK_BUFFER_SIZE);
            loop {
                match read {
                    Ok(task) => {
                        upstream_done = task.is_end();
                        tasks.push(task);
                    }
                    Err(e) => {
                        upstream_done = true;
                        upstream_can_reuse = false;
                        let e = send_error.take().unwrap_or(e);
                        tasks.push(HttpTask::Failed(e.into_up()));
                    }
                }
                if upstream_done || tasks.len() >= TASK_BUFFER_SIZE {
                    break;
                }
                let next = tokio::task::unconstrained(client_session.read_response_task());
                match next.now_or_never() {
                    Some(next) => read = next,
                    None => break,
                }
            }
            let is_answered = self
                .send_upstream_tasks(
                    session,
                    ctx,
                    tasks,
                    &mut serve_from_cache,
                    &mut range_body_filter,
                    &mut response_state,
                )
                .await?;
            if is_answered == Some(true) {
                break;
            }
        }
        if !upstream_done {
            // The answer was over by its own framing before the upstream said so.
            let last = client_session.read_response_task().await;
            upstream_can_reuse &= last.is_ok_and(|task| task.is_end());
        }
        let client_can_reuse = match session.as_mut().finish_body().await {
            Ok(_) => true,
            Err(e) => {
                error!("Error finish sending body to downstream: {}", e);
                false
            }
        };
        Ok((client_can_reuse, upstream_can_reuse))
    }
}
