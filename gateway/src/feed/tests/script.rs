//! A control plane that does what the test says, over a real unix socket.

use prost::Message as _;
use sha2::{Digest, Sha256};
use snapshot::wire::feed_server::{Feed, FeedServer};
use snapshot::wire::{
    Change, Chunk, Delta, FromGateway, Heartbeat, Manifest, Records, Seal, ToGateway, change, to_gateway,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::{Identity as Certificate, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::*;

pub(super) struct ScriptedControlPlane {
    address: String,
    /// Where the socket is.
    _directory: Option<TempDir>,
    calls: mpsc::Receiver<Call>,
    server: Option<JoinHandle<()>>,
}

/// One gateway's call, with its Hello read.
pub(super) struct Call {
    pub(super) hello: wire::Hello,
    pub(super) authorization: Option<String>,
    said: Streaming<FromGateway>,
    answers: mpsc::Sender<Result<ToGateway, Status>>,
}

struct Scripted {
    calls: mpsc::Sender<Call>,
}

#[tonic::async_trait]
impl Feed for Scripted {
    type FollowStream = ReceiverStream<Result<ToGateway, Status>>;

    async fn follow(&self, request: Request<Streaming<FromGateway>>) -> Result<Response<Self::FollowStream>, Status> {
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let mut said = request.into_inner();
        let first = said.message().await?.and_then(|said| said.message);
        let Some(from_gateway::Message::Hello(hello)) = first else { panic!("no Hello first") };
        let (answers, stream) = mpsc::channel(64);
        self.calls.send(Call { hello, authorization, said, answers }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl ScriptedControlPlane {
    /// On a unix socket.
    pub(super) async fn start() -> ScriptedControlPlane {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("feed.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let (sender, calls) = mpsc::channel(8);
        let service = FeedServer::new(Scripted { calls: sender });
        let server =
            tokio::spawn(async move { Server::builder().serve_with_incoming(service, incoming).await.unwrap() });
        let address = format!("unix:{}", socket.display());
        ScriptedControlPlane { address, _directory: Some(directory), calls, server: Some(server) }
    }

    /// With TLS, as `localhost` on a free port.
    pub(super) async fn start_tls(certificate_pem: &str, key_pem: &str) -> ScriptedControlPlane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (sender, calls) = mpsc::channel(8);
        let service = FeedServer::new(Scripted { calls: sender });
        let tls = ServerTlsConfig::new().identity(Certificate::from_pem(certificate_pem, key_pem));
        let serving = Server::builder().tls_config(tls).unwrap();
        let incoming = TcpListenerStream::new(listener);
        let server = tokio::spawn(async move { serving.serve_with_incoming(service, incoming).await.unwrap() });
        ScriptedControlPlane { address, _directory: None, calls, server: Some(server) }
    }

    pub(super) fn that_never_answers() -> ScriptedControlPlane {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", directory.path().join("feed.sock").display());
        ScriptedControlPlane { address, _directory: Some(directory), calls: mpsc::channel(1).1, server: None }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn next_call(&mut self) -> Call {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a gateway calls in time").unwrap()
    }

    pub(super) fn has_no_call(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

impl Drop for ScriptedControlPlane {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl Call {
    pub(super) fn have(&self) -> Option<Token> {
        self.hello.have.as_ref().map(|token| Token::try_from(token).unwrap())
    }

    pub(super) async fn play(&mut self, messages: impl IntoIterator<Item = ToGateway>) {
        for message in messages {
            self.answers.send(Ok(message)).await.unwrap();
        }
    }

    pub(super) async fn refuse(self, status: Status) {
        self.answers.send(Err(status)).await.unwrap();
    }

    pub(super) async fn next_said(&mut self) -> from_gateway::Message {
        let said = tokio::time::timeout(PATIENCE, self.said.message()).await.expect("it speaks in time");
        said.unwrap().unwrap().message.unwrap()
    }
}

fn message(message: to_gateway::Message) -> ToGateway {
    ToGateway { message: Some(message) }
}

/// A manifest, its chunks and its seal.
pub(super) fn full(token: Token, chunks: Vec<Vec<Record>>) -> Vec<ToGateway> {
    let mut seal = Sha256::new();
    let mut messages = vec![message(to_gateway::Message::Manifest(Manifest { token: Some(token.into()) }))];
    for (index, records) in (0..).zip(&chunks) {
        let records = Records { records: records.clone() }.encode_to_vec();
        let digest = Sha256::digest(&records).to_vec();
        seal.update(&digest);
        messages.push(message(to_gateway::Message::Chunk(Chunk { index, records: records.into(), digest })));
    }
    let seal = Seal { chunks: u32::try_from(chunks.len()).unwrap(), digest: seal.finalize().to_vec() };
    messages.push(message(to_gateway::Message::Seal(seal)));
    messages
}

/// The same with the last chunk's content replaced by another's.
pub(super) fn spoilt(mut messages: Vec<ToGateway>) -> Vec<ToGateway> {
    let last = messages.len() - 2;
    let Some(to_gateway::Message::Chunk(chunk)) = &mut messages[last].message else { panic!("no chunk last") };
    chunk.records = Records { records: vec![fleet(99)] }.encode_to_vec().into();
    messages
}

pub(super) fn delta(epoch: Uuid, from: u64, to: u64, records: Vec<Record>) -> ToGateway {
    let put = |record| Change { change: Some(change::Change::Put(record)) };
    let changes = records.into_iter().map(put).collect();
    message(to_gateway::Message::Delta(Delta { epoch: epoch.as_bytes().to_vec(), from, to, changes }))
}

pub(super) fn heartbeat(newest: Token) -> ToGateway {
    message(to_gateway::Message::Heartbeat(Heartbeat { newest: Some(newest.into()) }))
}
