//! Side connections against a real server: shared reading, refreshing, estimates, and leaving no trace behind.

use std::sync::Arc;
use std::time::Duration;

use super::Profile;
use super::server::{PASSWORD, Server};
use crate::credential::Credentials;
use crate::upstream::estimate::PlanRequest;
use crate::upstream::{Dialler, Side, SideConnections};

struct Fixture {
    server: Arc<Server>,
    sides: SideConnections,
    admission: crate::gate::Admission,
    target: crate::upstream::Target,
    database: &'static str,
    _folder: tempfile::TempDir,
}

const SCHEMA: &str = "
CREATE TABLE big (id int PRIMARY KEY, n int);
INSERT INTO big SELECT i, i % 10 FROM generate_series(1, 10000) i;
CREATE SCHEMA other; CREATE TABLE other.big (id int, n int); INSERT INTO other.big VALUES (1, 1);
CREATE TABLE log (id int);
ANALYZE;
GRANT ALL ON ALL TABLES IN SCHEMA public, other TO scram; GRANT USAGE ON SCHEMA other TO scram;
";

impl Fixture {
    async fn new(database: &'static str) -> Self {
        let server = Server::shared();
        server.database(database, SCHEMA);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, PASSWORD).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut profile = Profile::plain();
        profile.upstream.credential = Some("password".to_owned());
        let admission = profile.admission(server.address());
        let target =
            Dialler::default().dial(&admission, &super::stands_for_nothing, None).await.unwrap().target;
        let sides = SideConnections::new(Credentials::new(folder.path()));
        Self { server, sides, admission, target, database, _folder: folder }
    }

    fn side(&self) -> Side {
        self.sides.side(&self.admission, &self.target, "scram", self.database, None)
    }

    /// Side connections the server has for this test.
    fn connections(&self) -> String {
        let database = self.database;
        self.server.sql(
            "postgres",
            &format!(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = '{database}' AND application_name = 'portcullis'"
            ),
        )
    }
}

fn plan(text: &str) -> PlanRequest<'_> {
    PlanRequest { text, ..PlanRequest::default() }
}

#[tokio::test]
async fn sessions_share_one_reading_until_something_changes() {
    let fixture = Fixture::new("side_shared").await;
    let (one, two) = (fixture.side(), fixture.side());
    assert_eq!(fixture.connections(), "0", "nothing is opened before something is asked");
    let readings = tokio::join!(one.relations(), two.relations(), one.relations(), two.relations());
    let first = readings.0.unwrap();
    for other in [readings.1, readings.2, readings.3] {
        assert!(Arc::ptr_eq(&first, &other.unwrap()), "read once");
    }
    assert_eq!(fixture.connections(), "1");

    fixture.server.sql("side_shared", "CREATE TABLE added (a int)");
    two.changed();
    let second = one.relations().await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(second.iter().any(|relation| relation.name == "added"));

    // The reading outlives the sessions, the connection does not: it would be in the way of DROP DATABASE.
    drop((one, two));
    fixture.server.sql("postgres", "DROP DATABASE side_shared");
    assert!(Arc::ptr_eq(&second, &fixture.side().relations().await.unwrap()));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let fixture = Fixture::new("side_closed").await;
    let side = fixture.side();
    assert_eq!(side.estimate(&plan("SELECT * FROM big")).await, Some(10_000));
    let terminate = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                     WHERE datname = 'side_closed' AND application_name = 'portcullis'";
    assert_eq!(fixture.server.sql("postgres", terminate), "t");
    assert_eq!(side.estimate(&plan("SELECT * FROM big")).await, Some(10_000));
    assert_eq!(fixture.connections(), "1");
}

#[tokio::test]
async fn an_abandoned_question_does_not_confuse_the_next() {
    let fixture = Fixture::new("side_abandoned").await;
    let side = fixture.side();
    for microseconds in [0, 200, 1000, 3000] {
        let request = plan("SELECT * FROM log");
        let asking = side.estimate(&request);
        drop(tokio::time::timeout(Duration::from_micros(microseconds), asking).await);
        assert_eq!(side.estimate(&plan("SELECT * FROM big")).await, Some(10_000));
    }
}

#[tokio::test]
async fn estimates_what_would_be_written() {
    let fixture = Fixture::new("side_estimates").await;
    let side = fixture.side();
    for (text, rows) in [
        ("SELECT * FROM big", 10_000),
        ("SELECT * FROM big LIMIT 7;", 7),
        ("DELETE FROM big", 10_000),
        ("UPDATE big SET n = 0 WHERE id = 5", 1),
        ("UPDATE big SET n = 0 WHERE n = 3 -- a comment", 1000),
        ("/* first */ DELETE FROM big", 10_000),
        ("INSERT INTO log VALUES (1), (2), (3)", 3),
        ("INSERT INTO log SELECT id FROM big", 10_000),
        ("DELETE FROM big RETURNING id", 10_000),
        ("WITH gone AS (DELETE FROM big RETURNING id) SELECT 1", 10_000),
        ("WITH gone AS (DELETE FROM big RETURNING id) INSERT INTO log SELECT id FROM gone LIMIT 1", 10_001),
        ("MERGE INTO log USING big ON log.id = big.id WHEN NOT MATCHED THEN INSERT VALUES (big.id)", 10_000),
        ("DELETE FROM big WHERE id IN (SELECT id FROM other.big)", 1),
    ] {
        let estimate = side.estimate(&plan(text)).await.unwrap_or_else(|| panic!("none for {text}"));
        let (low, high) = (rows - rows / 10, rows + rows / 10);
        assert!((low..=high).contains(&estimate), "{text}: {estimate}, not {rows}");
    }
    assert_eq!(fixture.server.sql("side_estimates", "SELECT count(*) FROM big"), "10000", "nothing was run");
    assert_eq!(fixture.server.sql("side_estimates", "SELECT count(*) FROM log"), "0", "nothing was run");
}

#[tokio::test]
async fn estimates_with_the_statements_own_parameters_and_path() {
    let fixture = Fixture::new("side_parameters").await;
    let side = fixture.side();
    let text = PlanRequest {
        text: "DELETE FROM big WHERE id <= $1",
        types: &[],
        formats: &[0],
        values: &[Some(b"100")],
        search_path: None,
    };
    let few = side.estimate(&text).await.unwrap();
    assert!((80..=120).contains(&few), "{few}");
    let binary =
        PlanRequest { types: &[23], formats: &[1], values: &[Some(&9000_i32.to_be_bytes())], ..text };
    let many = side.estimate(&binary).await.unwrap();
    assert!((8500..=9500).contains(&many), "{many}");
    let null = PlanRequest { values: &[None], ..text };
    assert!(side.estimate(&null).await.unwrap() <= 1);
    let elsewhere = PlanRequest { search_path: Some("other, public"), ..plan("DELETE FROM big") };
    assert_eq!(side.estimate(&elsewhere).await, Some(1));
    assert_eq!(side.estimate(&plan("DELETE FROM big")).await, Some(10_000), "the path does not stay");
}

#[tokio::test]
async fn no_estimate_is_none_and_nothing_runs() {
    let fixture = Fixture::new("side_refused").await;
    let side = fixture.side();
    for text in [
        "",
        "DELETE FROM nowhere",
        "DELETE FROM big; DELETE FROM big",
        "SELECT 1; DELETE FROM big",
        "ANALYZE DELETE FROM big",
        "(ANALYZE) DELETE FROM big",
        "ANALYZE big",
        "TRUNCATE big",
        "DROP TABLE big",
        "EXPLAIN ANALYZE DELETE FROM big",
        "DO $$ BEGIN DELETE FROM big; END $$",
        "DELETE FROM big WHERE id = $1",
    ] {
        assert_eq!(side.estimate(&plan(text)).await, None, "{text:?}");
    }
    assert_eq!(fixture.server.sql("side_refused", "SELECT count(*) FROM big"), "10000");
    assert_eq!(fixture.connections(), "1", "a refusal does not cost the connection");
    assert_eq!(side.estimate(&plan("DELETE FROM big \0")).await, None);
}

#[tokio::test]
async fn an_estimate_does_not_wait_for_the_clients_own_locks() {
    let fixture = Fixture::new("side_locked").await;
    let side = fixture.side();
    assert_eq!(side.estimate(&plan("DELETE FROM big")).await, Some(10_000));
    let server = fixture.server.clone();
    let holder = std::thread::spawn(move || {
        server.sql("side_locked", "BEGIN; LOCK TABLE big; SELECT pg_sleep(4); COMMIT");
    });
    let waited = loop {
        let started = std::time::Instant::now();
        if side.estimate(&plan("DELETE FROM big")).await.is_none() {
            break started.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    holder.join().unwrap();
}

#[test]
fn its_futures_can_move_between_threads() {
    fn movable<T: Send>(_: impl FnOnce() -> T) {}
    movable(|| async {
        let side: Side = std::future::pending().await;
        drop(side.relations().await);
        side.estimate(&PlanRequest::default()).await;
    });
}
