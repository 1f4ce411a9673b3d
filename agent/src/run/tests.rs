//! Runs against the real cgroup tree. These need root; each works in its own cgroup and removes it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use globset::Glob;

use super::matching::Claim;
use super::*;
use crate::policy::rule::Matches;

/// How long an event of the kernel may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cgroup parent, a state folder and a pretended kernel side, gone when dropped.
struct Host {
    config: Config,
    state: tempfile::TempDir,
    kernel: Arc<Mutex<HashMap<u64, RunId>>>,
    events: Arc<Mutex<Vec<String>>>,
    children: Vec<Child>,
}

impl Host {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes cgroups; run it as root: sudo -E env PATH=$PATH cargo test -p portcullis"
        );
        let state = tempfile::tempdir().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            state_dir: state.path().to_owned(),
            runs_cgroup: format!("portcullis-test-{}-{number}", std::process::id()),
            ..Config::default()
        };
        let (kernel, events) = (Arc::default(), Arc::default());
        Self { config, state, kernel, events, children: Vec::new() }
    }

    fn parent(&self) -> String {
        format!("/{}", self.config.runs_cgroup)
    }

    fn open(&self) -> Arc<Runs> {
        self.open_with(&self.config)
    }

    fn open_with(&self, config: &Config) -> Arc<Runs> {
        let kernel = || Arc::clone(&self.kernel);
        let (governing, releasing, listing) = (kernel(), kernel(), kernel());
        let governor = Governor {
            govern: Box::new(move |id, run| {
                governing.lock().unwrap().insert(id, run);
                Ok(())
            }),
            release: Box::new(move |id| {
                releasing.lock().unwrap().remove(&id);
                Ok(())
            }),
            // Cgroups of other tests and other programs are no business of this kernel.
            governed: Box::new(move || Ok(listing.lock().unwrap().iter().map(|(k, v)| (*k, *v)).collect())),
        };
        let events = Arc::clone(&self.events);
        let notify: Notify = Box::new(move |event| {
            let (word, run) = match event {
                RunEvent::Started(run) => ("started", run),
                RunEvent::Resumed(run) => ("resumed", run),
                RunEvent::Ended { run, .. } => ("ended", run),
            };
            events.lock().unwrap().push(format!("{word} {}", run.id));
        });
        Runs::open(config, governor, notify).unwrap()
    }

    /// A process to be governed, not yet in any run.
    fn process(&mut self) -> u32 {
        let child = Command::new("sleep").arg("600").uid(65534).gid(65534).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    fn end_processes(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn governed(&self, id: u64) -> Option<RunId> {
        self.kernel.lock().unwrap().get(&id).copied()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_processes();
        let hierarchy = Hierarchy::find().unwrap();
        for attempt in 0.. {
            // A killed process leaves its cgroup a moment after it is reaped.
            match hierarchy.remove(&self.parent()) {
                Ok(()) => break,
                Err(error) => assert!(attempt < 100, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start(policy: &str) -> Start {
    Start {
        identity: None,
        policy: policy.to_owned(),
        policy_version: "v1".to_owned(),
        labels: BTreeMap::from([("job".to_owned(), "42".to_owned())]),
        allow_root: false,
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_run_lasts_from_its_first_process_to_its_last_needs_root() {
    let mut host = Host::new();
    let runs = host.open();
    let pid = host.process();
    let run = runs.start(start("crewai"), &Caller::child(pid, 65534).unwrap()).unwrap();

    assert_eq!(cgroup::of_process(pid).unwrap(), run.cgroup.path);
    assert_eq!(host.governed(run.cgroup.id), Some(run.id));
    assert_eq!(runs.get(run.id).unwrap(), run);
    assert!(runs.is_agent(&format!("{}/deeper", run.cgroup.path)));
    assert!(!runs.is_agent("/elsewhere"));
    // A nested cgroup still counts as the run's.
    let nested = cgroup::child(&run.cgroup.path, "nested");
    runs.hierarchy().create(&nested).unwrap();
    runs.hierarchy().place(&nested, pid).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(runs.get(run.id).is_some(), "a process below the run's cgroup keeps it alive");

    host.end_processes();
    eventually("the run ends", || runs.get(run.id).is_none()).await;
    assert_eq!(runs.find(run.id).unwrap().id, run.id);
    assert_eq!(host.governed(run.cgroup.id), None);
    assert!(!runs.hierarchy().directory(&run.cgroup.path).exists());
    assert_eq!(std::fs::read_dir(host.state.path().join("runs")).unwrap().count(), 0);
    let expected = vec![format!("started {}", run.id), format!("ended {}", run.id)];
    eventually("both events", || *host.events.lock().unwrap() == expected).await;
}

#[tokio::test]
async fn a_refused_start_leaves_nothing_needs_root() {
    let mut host = Host::new();
    let runs = host.open();
    let pid = host.process();
    let root = runs.start(start("crewai"), &Caller::child(pid, 0).unwrap()).unwrap_err();
    assert!(matches!(root, StartError::Root));

    let mut labelled = start("crewai");
    labelled.labels.insert("key with space".to_owned(), String::new());
    let label = runs.start(labelled, &Caller::child(pid, 65534).unwrap()).unwrap_err();
    assert!(matches!(label, StartError::Label(_)), "{label}");

    let gone = Caller::child(pid, 65534).unwrap();
    host.end_processes();
    let gone = runs.start(start("crewai"), &gone).unwrap_err();
    assert!(matches!(gone, StartError::CallerGone), "{gone}");

    assert!(runs.list().is_empty());
    assert!(host.kernel.lock().unwrap().is_empty());
    assert!(runs.hierarchy().children(&host.parent()).is_empty());
    assert!(host.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn root_may_run_when_it_says_so_needs_root() {
    let mut host = Host::new();
    let runs = host.open();
    let pid = host.process();
    let asked = Start { allow_root: true, ..start("crewai") };
    let run = runs.start(asked, &Caller::child(pid, 0).unwrap()).unwrap();
    assert_eq!(run.subject.as_ref().unwrap().user, "root");
}

#[tokio::test]
async fn a_new_daemon_takes_runs_up_again_needs_root() {
    let mut host = Host::new();
    let (lives, dies) = (host.process(), Command::new("sleep").arg("600").spawn().unwrap());
    let runs = host.open();
    let kept = runs.start(start("crewai"), &Caller::child(lives, 65534).unwrap()).unwrap();
    // The second run's process dies while no daemon looks: its record is written by hand, as a dead daemon left it.
    let path = cgroup::child(&host.parent(), &RunId::generate().to_string());
    let id = runs.hierarchy().create(&path).unwrap();
    let lost = RunInfo { id: RunId::generate(), cgroup: CgroupRef { path, id }, ..(*kept).clone() };
    runs.store.save(&lost).unwrap();
    runs.hierarchy().remove(&lost.cgroup.path).unwrap();
    host.children.push(dies);
    host.kernel.lock().unwrap().insert(lost.cgroup.id, lost.id);
    host.kernel.lock().unwrap().remove(&kept.cgroup.id);
    host.events.lock().unwrap().clear();

    let restarted = host.open();
    restarted.resume().unwrap();
    assert_eq!(restarted.get(kept.id).unwrap(), kept);
    assert_eq!(host.governed(kept.cgroup.id), Some(kept.id), "governed again, in case the pins were lost");
    assert!(restarted.get(lost.id).is_none());
    assert_eq!(host.governed(lost.cgroup.id), None);
    host.end_processes();
    eventually("the resumed run ends", || restarted.get(kept.id).is_none()).await;
}

#[tokio::test]
async fn a_populated_cgroup_without_a_record_stays_governed_needs_root() {
    let mut host = Host::new();
    let runs = host.open();
    let (full, empty) = (cgroup::child(&host.parent(), "full"), cgroup::child(&host.parent(), "empty"));
    let id = runs.hierarchy().create(&full).unwrap();
    runs.hierarchy().create(&empty).unwrap();
    let pid = host.process();
    runs.hierarchy().place(&full, pid).unwrap();

    runs.resume().unwrap();
    let run = host.governed(id).expect("governed without a name");
    assert!(runs.get(run).is_none(), "no run to allow anything by");
    assert!(!runs.hierarchy().directory(&empty).exists());
}

fn claim(policy: &str, unit: &str) -> Claim {
    let matches = Matches { units: vec![Glob::new(unit).unwrap().compile_matcher()], cgroups: Vec::new() };
    Claim { policy: policy.to_owned(), version: "v1".to_owned(), matches }
}

#[tokio::test]
async fn claimed_cgroups_are_found_and_followed_needs_root() {
    let host = Host::new();
    // Matched cgroups live outside the folder of runs, which is never matched.
    let mut elsewhere = host.config.clone();
    elsewhere.runs_cgroup.push_str("-runs");
    let runs = host.open_with(&elsewhere);
    let hierarchy = runs.hierarchy().clone();
    let unit = |name: &str| cgroup::child(&host.parent(), name);
    let matched = |path: &str| runs.list().iter().any(|run| run.cgroup.path == path && run.policy == "a");

    let tag = format!("{}-agent@*.service", host.config.runs_cgroup);
    let name = |n: &str| format!("{}-agent@{n}.service", host.config.runs_cgroup);
    let (there, later) = (unit(&name("there")), cgroup::child(&unit("slice"), &name("later")));
    hierarchy.create(&there).unwrap();
    let (claims, receiver) = tokio::sync::watch::channel(Arc::from([claim("a", &tag), claim("b", &tag)]));
    let watching = tokio::spawn(matching::watch(Arc::clone(&runs), receiver));

    eventually("what is there is found", || matched(&there)).await;
    hierarchy.create(&later).unwrap();
    eventually("what appears in a new folder is found", || matched(&later)).await;
    let inner = cgroup::child(&later, &name("inner"));
    hierarchy.create(&inner).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!matched(&inner), "nothing below a governed cgroup is claimed anew");
    let first = runs.covering(&later).unwrap();
    assert_eq!(host.governed(first.cgroup.id), Some(first.id));

    hierarchy.remove(&later).unwrap();
    eventually("what vanishes is released", || !matched(&later)).await;
    assert_eq!(host.governed(first.cgroup.id), None);
    hierarchy.create(&later).unwrap();
    eventually("what comes back is found", || matched(&later)).await;

    // A policy that is gone keeps its cgroups, governed and denied; one that no longer claims them lets go.
    claims.send(Arc::from([])).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matched(&there) && matched(&later));
    claims.send(Arc::from([claim("a", "nothing.service")])).unwrap();
    eventually("what is no longer claimed is released", || runs.list().is_empty()).await;
    assert!(host.kernel.lock().unwrap().is_empty());

    // What holds the daemon itself cannot be governed, and that is not silent.
    let own = cgroup::of_process(std::process::id()).unwrap();
    let mut everything = claim("a", "nothing.service");
    everything.matches.cgroups.push(Glob::new(&own).unwrap().compile_matcher());
    claims.send(Arc::from([everything])).unwrap();
    eventually("the daemon's own cgroup is refused", || runs.problems().len() == 1).await;
    assert!(runs.problems()[0].contains("the daemon itself lives in it"), "{:?}", runs.problems());
    claims.send(Arc::from([])).unwrap();
    eventually("the problem goes away", || runs.problems().is_empty()).await;

    drop(claims);
    watching.await.unwrap().unwrap();
}
