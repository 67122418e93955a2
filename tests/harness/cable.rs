//! Two networks, each with the kernel's own rules, and a cable between them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Address of the near end; no machine of the internet has it.
pub(crate) const NEAR: &str = "192.0.2.1";

const FAR: &str = "192.0.2.2";

/// A cable that can be pulled, between networks that live as long as this value.
pub(crate) struct Cable {
    near: String,
    far: String,
}

impl Cable {
    pub(crate) fn lay() -> Self {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("lithogen-{}-{number}-{end}", std::process::id());
        let cable = Self { near: name("near"), far: name("far") };
        for network in [&cable.near, &cable.far] {
            ip(&["netns", "add", network]);
            ip(&["-n", network, "link", "set", "lo", "up"]);
        }
        let ends = ["cable", "type", "veth", "peer", "name", "cable", "netns", &cable.far];
        ip(&[&["-n", &cable.near, "link", "add"], ends.as_slice()].concat());
        for (network, address) in [(&cable.near, NEAR), (&cable.far, FAR)] {
            ip(&["-n", network, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", network, "link", "set", "cable", "up"]);
        }
        cable
    }

    /// What starts a program at the near end.
    pub(crate) fn near(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.near]
    }

    /// What starts a program at the far end.
    pub(crate) fn far(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.far]
    }

    pub(crate) fn pull(&self) {
        ip(&["-n", &self.far, "link", "set", "cable", "down"]);
    }

    pub(crate) fn plug_in(&self) {
        ip(&["-n", &self.far, "link", "set", "cable", "up"]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for network in [&self.near, &self.far] {
            // What is not there need not go.
            let _ = Command::new("ip").args(["netns", "del", network]).status();
        }
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip {}", words.join(" "));
}
