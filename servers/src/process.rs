//! Starting a child so that it never outlives us unseen, and sending it signals. Knows nothing of what the child is.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// How often a starting or stopping child is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Lets the kernel send `signal` to the child when the **thread** that started it ends, however it ends; and gives the
/// child a process group of its own, so that a Ctrl-C in the terminal reaches us alone and we stop things in order.
pub fn die_with_parent(command: &mut Command, signal: Signal) -> &mut Command {
    command.process_group(0);
    // SAFETY: between fork and exec only this one async-signal-safe system call is made; it touches no memory of ours.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from))
    }
}

/// Sends a signal to a child that has not been waited for. A child that is gone already is no error.
pub fn send(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _gone_already = kill_process(pid, signal);
    }
}

/// Waits for the end of a child, at most `patience`; then kills it.
pub(crate) fn wait_or_kill(child: &mut Child, patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(POLL),
            _ => return,
        }
    }
    kill(child);
}

/// Ends it at once, and waits for its end.
pub(crate) fn kill(child: &mut Child) {
    let _gone_already = child.kill();
    let _ = child.wait();
}
