//! A private Redis on a unix socket in a folder of mode 0700, no port.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ServerFault;
use crate::place::private_dir;
use crate::process::{POLL, die_with_parent, kill, send, wait_or_kill};
use rustix::process::Signal;

const PROGRAM: &str = "Redis";
const INSTALL: &str = "apt-get install redis-server";
const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct PrivateRedis {
    dir: PathBuf,
    persistent: bool,
    child: Child,
}

impl PrivateRedis {
    /// Starts Redis in `dir`. Persistent: an append-only file, synced each second. Call from a thread that lives as
    /// long as the server.
    pub fn start(dir: &Path, persistent: bool) -> Result<PrivateRedis, ServerFault> {
        private_dir(dir, None)?;
        let child = spawn(dir, persistent)?;
        let mut redis = PrivateRedis { dir: dir.to_owned(), persistent, child };
        redis.wait_ready()?;
        Ok(redis)
    }

    /// Starts it again after it ended or was killed.
    pub fn restart(&mut self) -> Result<(), ServerFault> {
        self.kill();
        self.child = spawn(&self.dir, self.persistent)?;
        self.wait_ready()
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// The process, to wait for or to send signals to.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn stop(&mut self) {
        send(&self.child, Signal::TERM);
        wait_or_kill(&mut self.child, STOP_WAIT);
    }

    pub fn kill(&mut self) {
        kill(&mut self.child);
    }

    fn wait_ready(&mut self) -> Result<(), ServerFault> {
        let log = self.dir.join("redis.log");
        let deadline = Instant::now() + READY_WAIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(ServerFault::Ended { program: PROGRAM, status: status.to_string(), log });
            }
            if answers_ping(&self.socket()) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(ServerFault::NotReady { program: PROGRAM, waited_s: READY_WAIT.as_secs(), log })
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

fn answers_ping(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0u8; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"+PONG"
}

fn spawn(dir: &Path, persistent: bool) -> Result<Child, ServerFault> {
    let start = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ServerFault::NotInstalled { program: PROGRAM, install: INSTALL },
        _ => ServerFault::Start { program: PROGRAM, reason: error.to_string() },
    };
    let log = File::create(dir.join("redis.log")).map_err(start)?;
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--save", ""]);
    command.arg("--unixsocket").arg(dir.join("redis.sock")).arg("--dir").arg(dir);
    command.args(["--maxmemory-policy", "noeviction", "--appendonly", if persistent { "yes" } else { "no" }]);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    die_with_parent(&mut command, Signal::TERM);
    command.spawn().map_err(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_starts_is_killed_and_starts_again() {
        let dir = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
        let mut redis = PrivateRedis::start(dir.path(), true).unwrap();
        assert!(answers_ping(&redis.socket()));
        send(redis.child(), Signal::KILL);
        redis.restart().unwrap();
        assert!(answers_ping(&redis.socket()));
    }
}
