//! Redis servers on ports of the loopback interface, for tests of what takes several of them: a cluster, a replica, Sentinel.
//! Everything in them is thrown away. Refuses to form a cluster or to know who is whose replica: the test says so.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::ServerFault;
use crate::place::private_dir;
use crate::process::{POLL, die_with_parent, kill};

const PROGRAM: &str = "Redis";
const READY_WAIT: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(1);
/// A port that was free may be taken by the time that the server wants it.
const ATTEMPTS_MAX: u32 = 5;

/// What a server is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopbackRole<'a> {
    Alone,
    /// A member of a cluster that suspects a silent one after so many milliseconds.
    Member {
        node_timeout_ms: u32,
    },
    /// Of the server on this port.
    Replica {
        of: u16,
    },
    /// With these lines of configuration.
    Sentinel {
        lines: &'a str,
    },
}

/// With what a server answers on its encrypted port, and talks to others of its kind: PEM files; the certificate is its own authority.
#[derive(Clone, Copy, Debug)]
pub struct Encryption<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
}

/// One running server; killed when dropped.
#[derive(Debug)]
pub struct LoopbackRedis {
    port: u16,
    bus_port: u16,
    tls_port: u16,
    child: Child,
}

impl LoopbackRedis {
    /// Starts a server in `dir`, on a free port. Call from a thread that lives as long as the server.
    pub fn start(dir: &Path, role: LoopbackRole<'_>) -> Result<LoopbackRedis, ServerFault> {
        LoopbackRedis::start_as(dir, role, None)
    }

    /// As `start`, with an encrypted port beside the plain one, on which the server is also addressed by others of its kind.
    pub fn start_encrypted(
        dir: &Path,
        role: LoopbackRole<'_>,
        encryption: Encryption<'_>,
    ) -> Result<LoopbackRedis, ServerFault> {
        LoopbackRedis::start_as(dir, role, Some(encryption))
    }

    fn start_as(
        dir: &Path,
        role: LoopbackRole<'_>,
        encryption: Option<Encryption<'_>>,
    ) -> Result<LoopbackRedis, ServerFault> {
        private_dir(dir, None)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut redis = spawn(dir, role, encryption)?;
            match redis.wait_ready(dir) {
                Err(ServerFault::Ended { .. }) if attempts < ATTEMPTS_MAX => {}
                Err(fault) => return Err(fault),
                Ok(()) => return Ok(redis),
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where members of a cluster talk to each other.
    pub fn bus_port(&self) -> u16 {
        self.bus_port
    }

    /// Nobody answers there but where the server was started with an encryption.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn kill(&mut self) {
        kill(&mut self.child);
    }

    fn wait_ready(&mut self, dir: &Path) -> Result<(), ServerFault> {
        let deadline = Instant::now() + READY_WAIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(ServerFault::Ended { program: PROGRAM, status: status.to_string(), log: log(dir) });
            }
            if answers_ping(self.port) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(ServerFault::NotReady { program: PROGRAM, waited_s: READY_WAIT.as_secs(), log: log(dir) })
    }
}

impl Drop for LoopbackRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path, role: LoopbackRole<'_>, encryption: Option<Encryption<'_>>) -> Result<LoopbackRedis, ServerFault> {
    let fault = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            ServerFault::NotInstalled { program: PROGRAM, install: "apt-get install redis-server" }
        }
        _ => ServerFault::Start { program: PROGRAM, reason: error.to_string() },
    };
    let [port, bus_port, tls_port] = free_ports().map_err(fault)?;
    let file = dir.join("redis.conf");
    let mut text = configuration(dir, role, port, bus_port);
    if let Some(Encryption { certificate, key }) = encryption {
        let (certificate, key) = (certificate.display(), key.display());
        text += &format!("tls-port {tls_port}\ntls-cert-file {certificate}\ntls-key-file {key}\n");
        text += &format!("tls-ca-cert-file {certificate}\ntls-auth-clients no\ntls-replication yes\n");
    }
    std::fs::write(&file, text).map_err(fault)?;
    let mut command = Command::new("redis-server");
    command.arg(&file);
    if matches!(role, LoopbackRole::Sentinel { .. }) {
        command.arg("--sentinel");
    }
    let log = File::create(log(dir)).map_err(fault)?;
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    die_with_parent(&mut command, Signal::KILL);
    Ok(LoopbackRedis { port, bus_port, tls_port, child: command.spawn().map_err(fault)? })
}

fn configuration(dir: &Path, role: LoopbackRole<'_>, port: u16, bus_port: u16) -> String {
    let place = format!("port {port}\nbind 127.0.0.1\ndir {}\n", dir.display());
    let memory = "save \"\"\nappendonly no\nmaxmemory-policy noeviction\nrepl-diskless-sync-delay 0\n";
    match role {
        LoopbackRole::Alone => format!("{place}{memory}"),
        LoopbackRole::Replica { of } => format!("{place}{memory}replicaof 127.0.0.1 {of}\n"),
        LoopbackRole::Member { node_timeout_ms } => {
            let cluster = format!("cluster-port {bus_port}\ncluster-node-timeout {node_timeout_ms}\n");
            format!("{place}{memory}cluster-enabled yes\ncluster-config-file nodes.conf\n{cluster}")
        }
        LoopbackRole::Sentinel { lines } => format!("{place}{lines}\n"),
    }
}

fn free_ports() -> std::io::Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All held at once, so that they differ.
    let (one, two, three) = (bind()?, bind()?, bind()?);
    Ok([one.local_addr()?.port(), two.local_addr()?.port(), three.local_addr()?.port()])
}

fn log(dir: &Path) -> PathBuf {
    dir.join("redis.log")
}

fn answers_ping(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PING_WAIT) else { return false };
    let _ = stream.set_read_timeout(Some(PING_WAIT));
    let mut answer = [0u8; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"+PONG"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_a_port_ends_with_its_handle() {
        let dir = tempfile::Builder::new().prefix("lb").tempdir_in("/tmp").unwrap();
        let redis = LoopbackRedis::start(dir.path(), LoopbackRole::Alone).unwrap();
        let port = redis.port();
        assert!(answers_ping(port));
        drop(redis);
        assert!(!answers_ping(port));
    }
}
