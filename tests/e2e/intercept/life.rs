//! Attach, swap, die, come back, detach: at no point does a governed process connect directly.

use super::sandbox::{Agent, Sandbox, accept_within, local};
use portcullis::flow::RunId;
use portcullis::intercept::{self, Detach, InterceptError, Kernel};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

const NOTHING_COMES: Duration = Duration::from_millis(300);

/// Restarts of the daemon while agents connect.
const SWAPS: u32 = 25;

#[test]
fn with_the_daemon_dead_agents_are_refused() {
    let mut sandbox = Sandbox::new();
    let direct = TcpListener::bind("127.77.2.1:0").expect("bind");
    let port = local(&direct).port();
    sandbox.kernel = None;
    (sandbox.v4, sandbox.v6) = (None, None);
    let printed = sandbox.run(&format!(
        "
print(errno_of(dial, ('127.77.2.1', {port})))
print(errno_of(dial, ('::ffff:127.77.2.1', {port})))
print(errno_of(dial, ('::1', {port})))
print(errno_of(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b'x', ('127.77.2.1', {port})))
"
    ));
    assert_eq!(printed, "ECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nEPERM");
    assert!(accept_within(&direct, NOTHING_COMES).is_none());
}

#[test]
fn a_new_daemon_takes_over_its_agents() {
    let mut sandbox = Sandbox::new();
    sandbox.kernel = None;
    sandbox.attach();
    assert_eq!(sandbox.kernel().governed().expect("governed"), [(sandbox.cgroup.id(), sandbox.run)]);
    let (origin, _) = sandbox.origin_of("dial(('127.77.2.2', 5432))");
    assert_eq!((origin.run, origin.destination.to_string()), (sandbox.run, "127.77.2.2:5432".into()));
}

#[test]
fn a_new_daemon_may_listen_elsewhere() {
    let mut sandbox = Sandbox::new();
    sandbox.kernel = None;
    let moved = TcpListener::bind("127.0.0.1:0").expect("bind");
    let std::net::SocketAddr::V4(proxy_v4) = local(&moved) else { unreachable!() };
    sandbox.settings.proxy_v4 = proxy_v4;
    sandbox.v4 = Some(moved);
    sandbox.attach();
    let (origin, _) = sandbox.origin_of("dial(('127.77.2.3', 5432))");
    assert_eq!(origin.destination.to_string(), "127.77.2.3:5432");
}

#[test]
fn no_connection_slips_through_a_swap() {
    let mut sandbox = Sandbox::new();
    let direct = TcpListener::bind("127.77.2.4:0").expect("bind");
    let port = local(&direct).port();
    let before = sandbox.kernel().counters().expect("counters");
    // Four threads connect until told to stop; the proxy's backlog is drained by the swap loop.
    let mut agent = sandbox.spawn(&format!(
        "
stop, done, failed = threading.Event(), [0] * 4, []
def work(me):
    while not stop.is_set():
        try:
            s = dial(('127.77.2.4', {port}))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            s.close()
            done[me] += 1
        except OSError as e:
            failed.append(repr(e))
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in threads: t.start()
print('started', flush=True)
sys.stdin.readline()
stop.set()
for t in threads: t.join()
print(sum(done), len(failed), failed[:3])
"
    ));
    assert_eq!(agent.line(), "started");
    let listener = sandbox.v4.as_ref().expect("listening").try_clone().expect("clone");
    let drain = std::thread::spawn(move || {
        let mut accepted = 0_u32;
        while accept_within(&listener, Duration::from_secs(2)).is_some() {
            accepted += 1;
        }
        accepted
    });
    for _ in 0..SWAPS {
        sandbox.kernel = None;
        sandbox.attach();
    }
    agent.go_on();
    let printed = agent.finish();
    let mut words = printed.split(' ');
    let done: u64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
    assert_eq!(words.next(), Some("0"), "{printed}");
    assert!(done > u64::from(SWAPS), "the load was real: {done}");
    assert!(accept_within(&direct, NOTHING_COMES).is_none(), "a connection was direct");
    let after = sandbox.kernel().counters().expect("counters");
    assert_eq!(after.redirected - before.redirected, done);
    assert!(drain.join().expect("drain") > 0);
}

#[test]
fn a_second_daemon_on_the_same_pins_is_refused() {
    let sandbox = Sandbox::new();
    let error = Kernel::attach(&sandbox.settings).expect_err("in use");
    assert!(matches!(error, InterceptError::Busy(_)), "{error}");
    let error = intercept::detach(&sandbox.settings.pin_dir, Detach::Force).expect_err("in use");
    assert!(matches!(error, InterceptError::Busy(_)), "{error}");
    let (origin, _) = sandbox.origin_of("dial(('127.77.2.5', 5432))");
    assert_eq!(origin.run, sandbox.run);
}

#[test]
fn two_daemons_side_by_side_have_their_own_agents() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let (first, _) = one.origin_of("dial(('127.77.2.6', 5432))");
    let (second, _) = two.origin_of("dial(('127.77.2.7', 5432))");
    assert_eq!((first.run, first.destination.to_string()), (one.run, "127.77.2.6:5432".into()));
    assert_eq!((second.run, second.destination.to_string()), (two.run, "127.77.2.7:5432".into()));
    assert_eq!(one.kernel().governed().expect("governed"), [(one.cgroup.id(), one.run)]);
}

#[test]
fn pins_of_another_version_are_refused_and_can_be_detached() {
    let mut sandbox = Sandbox::new();
    sandbox.kernel = None;
    let other = sandbox.settings.pin_dir.join("v999");
    fs::create_dir(&other).expect("make a directory on bpffs");
    let error = Kernel::attach(&sandbox.settings).expect_err("another layout");
    assert!(matches!(&error, InterceptError::Layout(text) if text.contains("v999")), "{error}");
    fs::remove_dir(&other).expect("remove");

    // The right name on the wrong map.
    let pins = sandbox.settings.pin_dir.join(format!("v{}", ebpf_abi::LAYOUT));
    fs::rename(pins.join("AGENTS"), pins.join("kept")).expect("rename");
    fs::rename(pins.join("COUNTERS"), pins.join("AGENTS")).expect("rename");
    let error = Kernel::attach(&sandbox.settings).expect_err("another layout");
    assert!(matches!(&error, InterceptError::Layout(text) if text.contains("AGENTS")), "{error}");
    intercept::detach(&sandbox.settings.pin_dir, Detach::Force).expect("detach what is not ours");
    assert!(!sandbox.settings.pin_dir.exists());
    sandbox.attach();
}

#[test]
fn detaching_waits_for_agents_and_leaves_nothing() {
    let mut sandbox = Sandbox::new();
    let direct = TcpListener::bind("127.77.2.8:0").expect("bind");
    let port = local(&direct).port();
    let mut agent = sandbox.spawn(&format!(
        "
print('running', flush=True)
sys.stdin.readline()
dial(('127.77.2.8', {port}))
"
    ));
    assert_eq!(agent.line(), "running");
    sandbox.kernel = None;
    let pin_dir = sandbox.settings.pin_dir.clone();
    let error = intercept::detach(&pin_dir, Detach::IfIdle).expect_err("an agent is running");
    assert!(matches!(error, InterceptError::AgentsRunning(1)), "{error}");
    let ours = pinned_program_ids(&pin_dir.join(format!("v{}", ebpf_abi::LAYOUT)));
    assert_eq!(ours.len(), 13);

    intercept::detach(&pin_dir, Detach::Force).expect("detach");
    assert!(!pin_dir.exists());
    agent.go_on();
    agent.finish();
    accept_within(&direct, super::sandbox::PATIENCE).expect("direct again");
    // The kernel frees programs a moment after their last link.
    let deadline = std::time::Instant::now() + super::sandbox::PATIENCE;
    while aya::programs::loaded_programs().flatten().any(|program| ours.contains(&program.id())) {
        assert!(std::time::Instant::now() < deadline, "programs of the test are still loaded");
        std::thread::sleep(Duration::from_millis(10));
    }
    intercept::detach(&pin_dir, Detach::IfIdle).expect("nothing there is no error");
}

fn pinned_program_ids(pins: &std::path::Path) -> Vec<u32> {
    fs::read_dir(pins)
        .expect("pins")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("link_"))
        .map(|entry| {
            let link = aya::programs::links::PinnedLink::from_pin(entry.path()).expect("a link");
            aya::programs::links::FdLink::from(link).info().expect("link info").program_id()
        })
        .collect()
}

#[test]
fn detaching_an_idle_daemon_needs_no_force() {
    let mut sandbox = Sandbox::new();
    sandbox.kernel = None;
    intercept::detach(&sandbox.settings.pin_dir, Detach::IfIdle).expect("no process is left");
    assert!(!sandbox.settings.pin_dir.exists());
}

#[test]
fn only_root_sees_the_pins() {
    let sandbox = Sandbox::new();
    for directory in
        [sandbox.settings.pin_dir.clone(), sandbox.settings.pin_dir.join(format!("v{}", ebpf_abi::LAYOUT))]
    {
        let found = fs::metadata(&directory).expect("there");
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o700, 0), "{}", directory.display());
    }
}

#[test]
fn what_cannot_be_governed_is_said() {
    let sandbox = Sandbox::new();
    let root = fs::metadata(&sandbox.settings.cgroup_root).expect("root").ino();
    let mut deep = vec![sandbox.cgroup.child("level2")];
    for level in 3..=17 {
        let next = deep.last().expect("one").child(&format!("level{level}"));
        deep.push(next);
    }
    let kernel = sandbox.kernel();
    for (id, why) in [(root, "0 levels"), (u64::MAX, "does not exist"), (deep[15].id(), "17 levels")] {
        let error = kernel.govern(id, RunId::generate()).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let run = RunId::generate();
    kernel.govern(deep[14].id(), run).expect("16 levels are possible");
    // Below it, where the walk over the lineage does not reach.
    let agent = Agent::spawn(&deep[15].path, "dial(('127.77.2.9', 5432))");
    assert_eq!(sandbox.accept_v4().1.expect("origin").run, run);
    agent.finish();
    while let Some(cgroup) = deep.pop() {
        drop(cgroup);
    }
    assert!(kernel.govern(u64::MAX, run).is_err());
    kernel.release(u64::MAX).expect("releasing what is not governed is no error");
}

#[test]
fn unusable_settings_are_said_before_anything_is_attached() {
    let sandbox = Sandbox::new();
    let good = &sandbox.settings;
    let fresh = good.pin_dir.with_extension("fresh");
    let outside = intercept::Settings { proxy_v4: "192.0.2.1:1".parse().expect("address"), ..good.clone() };
    let no_port = intercept::Settings { proxy_v4: "127.0.0.1:0".parse().expect("address"), ..good.clone() };
    for settings in [outside, no_port] {
        let error = Kernel::attach(&intercept::Settings { pin_dir: fresh.clone(), ..settings })
            .expect_err("unusable");
        assert!(matches!(error, InterceptError::Settings(_)), "{error}");
    }
    let not_a_cgroup =
        intercept::Settings { cgroup_root: "/tmp".into(), pin_dir: fresh.clone(), ..good.clone() };
    assert!(matches!(Kernel::attach(&not_a_cgroup), Err(InterceptError::NoCgroup2)));
    let not_bpffs = intercept::Settings { pin_dir: "/tmp/portcullis-test-pins".into(), ..good.clone() };
    assert!(matches!(Kernel::attach(&not_bpffs), Err(InterceptError::Io { .. })));
    assert!(!fresh.exists());
}
