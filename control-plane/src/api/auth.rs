//! Who calls: a session's cookie, or an access token. Every refusal looks alike. Refuses a mutation by cookie that another
//! site's page has sent, and tells nobody that an organization exists that he is not a member of.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use uuid::Uuid;

use crate::api::problem::{ApiError, Code};
use crate::api::source::Source;
use crate::api::state::AppState;
use crate::domain::accounts::{Role, Scope};
use crate::settings::Settings;
use crate::store::audit::Actor;
use crate::store::members::{Standing, find_standing};
use crate::store::{Store, Transaction, access_tokens, sessions};
use crate::tokens::{self, TOKEN_BYTES_MAX};

#[cfg(test)]
mod tests;

/// The prefix makes browsers insist on Secure, Path=/ and no Domain.
const COOKIE: &str = "__Host-apihub_session";
const INSECURE_COOKIE: &str = "apihub_session";

/// Somebody who proved who he is.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user_id: Uuid,
    /// Operator of the installation.
    pub is_admin: bool,
    pub proof: Proof,
    pub address: IpAddr,
    pub request_id: Uuid,
}

#[derive(Clone, Debug)]
pub enum Proof {
    Session { id: Uuid },
    Token { id: Uuid, scope: Scope, organization_id: Option<Uuid> },
}

/// A caller's place in an organization, proved.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub organization_id: Uuid,
    pub role: Role,
}

impl Caller {
    pub fn actor(&self) -> Actor {
        let token_id = match self.proof {
            Proof::Token { id, .. } => Some(id),
            Proof::Session { .. } => None,
        };
        Actor { user_id: Some(self.user_id), token_id, address: Some(self.address), request_id: Some(self.request_id) }
    }

    pub fn session_id(&self) -> Option<Uuid> {
        match self.proof {
            Proof::Session { id } => Some(id),
            Proof::Token { .. } => None,
        }
    }

    /// The organization that a token is bound to.
    pub fn bound_to(&self) -> Option<Uuid> {
        match self.proof {
            Proof::Token { organization_id, .. } => organization_id,
            Proof::Session { .. } => None,
        }
    }

    /// A session may do what its user may; a token needs the scope. Errors: 403.
    pub fn require_scope(&self, needed: Scope) -> Result<(), ApiError> {
        match self.proof {
            Proof::Token { scope, .. } if scope < needed => {
                let detail = format!("This needs an access token with the scope `{}`.", needed.as_str());
                Err(ApiError::new(Code::InsufficientScope, detail))
            }
            _ => Ok(()),
        }
    }

    /// For what concerns the user himself; a token bound to an organization does not reach it. Errors: 403.
    pub fn require_unbound(&self) -> Result<(), ApiError> {
        match self.bound_to() {
            Some(_) => Err(ApiError::new(Code::InsufficientScope, "This access token reaches one organization only.")),
            None => Ok(()),
        }
    }

    /// For operators of the installation. Errors: 403.
    pub fn require_admin(&self) -> Result<(), ApiError> {
        self.require_unbound()?;
        self.require_scope(Scope::Admin)?;
        if self.is_admin {
            return Ok(());
        }
        Err(ApiError::new(Code::Forbidden, "Only an operator of this installation may do this."))
    }

    /// Errors: 404 for an organization that one is no member of, 403 for too small a role.
    pub async fn member_of(&self, store: &Store, organization_id: Uuid, needed: Role) -> Result<Member, ApiError> {
        let user_id = self.user_id;
        let standing = store
            .read("find_standing", |tx| Box::pin(async move { find_standing(tx, organization_id, user_id).await }))
            .await?;
        self.judge(standing, organization_id, needed)
    }

    /// As `member_of`, inside a unit of work.
    pub async fn member_in(
        &self,
        tx: &Transaction<'_>,
        organization_id: Uuid,
        needed: Role,
    ) -> Result<Member, ApiError> {
        self.judge(find_standing(tx, organization_id, self.user_id).await?, organization_id, needed)
    }

    fn judge(&self, standing: Option<Standing>, organization_id: Uuid, needed: Role) -> Result<Member, ApiError> {
        let is_in_reach = self.bound_to().is_none_or(|bound| bound == organization_id);
        let Some(standing) = standing.filter(|_| is_in_reach) else {
            return Err(ApiError::not_found("organization"));
        };
        if standing.role < needed {
            let detail = format!("This needs the role `{}`; yours is `{}`.", needed.as_str(), standing.role.as_str());
            return Err(ApiError::new(Code::InsufficientRole, detail));
        }
        if needed > Role::Viewer && !standing.is_organization_active {
            return Err(ApiError::new(Code::OrganizationSuspended, "It can be looked at, but not changed."));
        }
        Ok(Member { organization_id, role: standing.role })
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Caller, ApiError> {
        let source = Source::of(parts, state);
        let caller = if parts.headers.contains_key(header::AUTHORIZATION) {
            by_token(parts, state, source).await?
        } else {
            by_session(parts, state, source).await?
        };
        if is_mutation(&parts.method) {
            caller.require_scope(Scope::Write)?;
        }
        Ok(caller)
    }
}

async fn by_token(parts: &Parts, state: &AppState, source: Source) -> Result<Caller, ApiError> {
    let token = bearer(&parts.headers).ok_or_else(unauthenticated)?;
    state.throttles.check_token(source.address, Instant::now()).map_err(|throttled| refuse(state, throttled))?;
    let digest = tokens::digest(token);
    let owner = state
        .store
        .read("authenticate_token", |tx| {
            Box::pin(async move {
                let owner = access_tokens::find_token_owner(tx, &digest).await?;
                if let Some(owner) = owner.as_ref().filter(|owner| owner.is_stale) {
                    access_tokens::touch_access_token(tx, owner.token_id).await?;
                }
                Ok::<_, ApiError>(owner)
            })
        })
        .await?
        .ok_or_else(|| count_bad_token(state, source))?;
    let scope = owner.scopes.iter().copied().max().unwrap_or(Scope::Read);
    Ok(Caller {
        user_id: owner.user_id,
        is_admin: owner.is_admin,
        proof: Proof::Token { id: owner.token_id, scope, organization_id: owner.organization_id },
        address: source.address,
        request_id: source.request_id,
    })
}

async fn by_session(parts: &Parts, state: &AppState, source: Source) -> Result<Caller, ApiError> {
    let token = session_cookie(&parts.headers, &state.settings).ok_or_else(unauthenticated)?;
    if is_mutation(&parts.method) {
        require_own_origin(&parts.headers, &state.settings)?;
    }
    state.throttles.check_token(source.address, Instant::now()).map_err(|throttled| refuse(state, throttled))?;
    let digest = tokens::digest(token);
    let owner = state
        .store
        .read("authenticate_session", |tx| {
            Box::pin(async move {
                let owner = sessions::find_session_owner(tx, &digest).await?;
                if let Some(owner) = owner.as_ref().filter(|owner| owner.is_stale) {
                    sessions::touch_session(tx, owner.session_id).await?;
                }
                Ok::<_, ApiError>(owner)
            })
        })
        .await?
        .ok_or_else(|| count_bad_token(state, source))?;
    Ok(Caller {
        user_id: owner.user_id,
        is_admin: owner.is_admin,
        proof: Proof::Session { id: owner.session_id },
        address: source.address,
        request_id: source.request_id,
    })
}

/// Counted, then told.
pub fn refuse(state: &AppState, throttled: crate::throttle::Throttled) -> ApiError {
    state.metrics.count_throttled(throttled.kind);
    ApiError::from(throttled)
}

/// A credential that is nobody's, told like every other.
pub fn count_bad_token(state: &AppState, source: Source) -> ApiError {
    state.throttles.bad_token(source.address, Instant::now());
    unauthenticated()
}

/// The same words whatever was wrong with the credentials.
fn unauthenticated() -> ApiError {
    let detail = "Show a session's cookie, or `Authorization: Bearer` with an access token that is valid.";
    ApiError::new(Code::Unauthenticated, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"apihub\""))
}

fn is_mutation(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Two headers, or a token that cannot be ours, are as good as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer")
        && token.len() <= TOKEN_BYTES_MAX
        && token.starts_with(tokens::ACCESS_TOKEN_PREFIX);
    fits.then_some(token)
}

fn session_cookie<'a>(headers: &'a HeaderMap, settings: &Settings) -> Option<&'a str> {
    let name = cookie_name(settings);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, token) = pairs.find(|(found, _)| *found == name)?;
    (!token.is_empty() && token.len() <= TOKEN_BYTES_MAX).then_some(token)
}

fn cookie_name(settings: &Settings) -> &'static str {
    if settings.sessions.insecure_cookies { INSECURE_COOKIE } else { COOKIE }
}

/// The cookie of a new session; an empty token with no age takes it away.
pub fn set_cookie(settings: &Settings, token: &str, max_age_s: u64) -> String {
    let secure = if settings.sessions.insecure_cookies { "" } else { "; Secure" };
    format!("{}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}{secure}", cookie_name(settings))
}

/// A browser says whose page sends a mutation; only our own may. Errors: 403, also when nothing is said.
pub fn require_own_origin(headers: &HeaderMap, settings: &Settings) -> Result<(), ApiError> {
    let refused = |detail: &str| Err(ApiError::new(Code::OriginRefused, detail));
    let Some(origin) = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()) else {
        return refused("A change with a session needs the Origin header that browsers send.");
    };
    let is_own = match &settings.rest.public_url {
        Some(public_url) => origin == public_url.origin().ascii_serialization(),
        None => is_host_of_request(origin, headers, settings),
    };
    if is_own { Ok(()) } else { refused("Its Origin is not this control plane's own.") }
}

/// Without a public address in the settings, the page must come from the host that the request names.
fn is_host_of_request(origin: &str, headers: &HeaderMap, settings: &Settings) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|value| value.to_str().ok()) else { return false };
    let is_https = origin.strip_prefix("https://") == Some(host);
    let is_http = settings.sessions.insecure_cookies && origin.strip_prefix("http://") == Some(host);
    is_https || is_http
}
