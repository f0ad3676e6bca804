//! A Redis of the test's own: on a unix socket in a temporary directory, durable, killed when the test ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

pub(super) struct RedisServer {
    directory: TempDir,
    process: Child,
}

impl RedisServer {
    pub(super) async fn start() -> RedisServer {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(directory.path());
        let server = RedisServer { directory, process };
        server.answers().await;
        server
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(super) async fn start_again(&mut self) {
        self.process = spawn(self.directory.path());
        self.answers().await;
    }

    pub(super) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub(super) fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.path().join("redis.sock").display())
    }

    /// The batches in the stream, oldest first. None: Redis does not answer.
    pub(super) async fn entries(&self, stream: &str) -> Option<Vec<Vec<u8>>> {
        let mut connection = self.connect().await?;
        let range = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut connection).await;
        Some(batches(range.ok()?))
    }

    /// Takes every entry out, at once.
    pub(super) async fn take(&self, stream: &str) -> Option<Vec<Vec<u8>>> {
        let mut connection = self.connect().await?;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("XRANGE").arg(stream).arg("-").arg("+");
        pipe.cmd("XTRIM").arg(stream).arg("MAXLEN").arg(0).ignore();
        let (range,): (redis::streams::StreamRangeReply,) = pipe.query_async(&mut connection).await.ok()?;
        Some(batches(range))
    }

    pub(super) async fn length(&self, stream: &str) -> Option<u64> {
        redis::cmd("XLEN").arg(stream).query_async(&mut self.connect().await?).await.ok()
    }

    async fn connect(&self) -> Option<MultiplexedConnection> {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.ok()
    }

    async fn answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.length("nothing").await.is_none() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn spawn(directory: &Path) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

fn batches(range: redis::streams::StreamRangeReply) -> Vec<Vec<u8>> {
    let batch = |entry: redis::streams::StreamId| {
        assert_eq!(entry.get::<String>("v").as_deref(), Some("1"));
        entry.get::<Vec<u8>>("b").unwrap()
    };
    range.ids.into_iter().map(batch).collect()
}
