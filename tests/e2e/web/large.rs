//! Large bodies: they stream, unchanged where nothing is masked, in memory that does not grow with them; and what is done
//! with those that a rule would have to see whole.

use harness::daemon::Daemon;
use serde_json::{Value, json};

use super::{answer, daemon, marker, masked, peak_kb, python, reached, reset_peak, talking};

/// Memory that a body of any size may cost the daemon, in kB.
const GROWTH_KB_MAX: u64 = 32 * 1024;

/// Runs a script once to warm up and once to measure what the daemon's peak grows by.
#[track_caller]
fn measured(daemon: &mut Daemon, warm_up: &str, script: &str) -> Value {
    python(daemon, warm_up);
    let pid = daemon.pid();
    let before = reset_peak(pid);
    let seen = python(daemon, script);
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "{before} kB grew by {grown} kB");
    seen
}

/// Downloads without keeping and says the digest.
fn download(target: &str, http2: bool) -> String {
    let http2 = if http2 { "True" } else { "False" };
    format!(
        r#"
import httpx
digest, count = hashlib.sha256(), 0
with httpx.Client(verify=context(), timeout=120, http2={http2}) as client:
    with client.stream("GET", f"{{BASE}}{target}") as got:
        assert got.status_code == 200, got.status_code
        for piece in got.iter_raw():
            digest.update(piece)
            count += len(piece)
say([count, digest.hexdigest() == sha256_of_stream(count >> 20)])
"#
    )
}

#[test]
fn a_large_download_is_unchanged_in_flat_memory() {
    let mut daemon = masked();
    for (target, http2) in
        [("/stream?mib=256", false), ("/stream?chunked&mib=256", false), ("/stream?mib=256", true)]
    {
        let seen = measured(&mut daemon, &download("/stream?mib=8", http2), &download(target, http2));
        assert_eq!(seen, json!([256 << 20, true]), "{target}, HTTP/2: {http2}");
    }
}

fn upload(mib: u32, http2: bool) -> String {
    let http2 = if http2 { "True" } else { "False" };
    format!(
        r#"
import httpx
block = random.Random(7).randbytes(1 << 20)
def pieces():
    for _ in range({mib}):
        yield block
with httpx.Client(verify=context(), timeout=120, http2={http2}) as client:
    got = client.post(f"{{BASE}}/upload", content=pieces(), headers={{"content-type": "application/octet-stream"}}).json()
say([got["bytes"], got["sha256"] == sha256_of_stream({mib})])
"#
    )
}

#[test]
fn a_large_upload_is_unchanged_in_flat_memory() {
    let mut daemon = masked();
    for http2 in [false, true] {
        let seen = measured(&mut daemon, &upload(8, http2), &upload(128, http2));
        assert_eq!(seen, json!([128 << 20, true]), "HTTP/2: {http2}");
    }
}

#[test]
fn a_large_text_is_searched_to_its_end_in_flat_memory() {
    let prose = |mib: u32| {
        format!(
            r#"
import httpx
count, tail, found = 0, b"", []
with httpx.stream("GET", f"{{BASE}}/prose?mib={mib}", verify=context(), timeout=120) as got:
    for piece in got.iter_raw():
        count += piece.count(b"\n")
        found += leaks(tail + piece)
        tail = (tail + piece)[-64:]
say([count, found, tail[-5:].decode()])
"#
        )
    };
    let mut daemon = masked();
    let seen = measured(&mut daemon, &prose(2), &prose(64));
    assert_eq!(seen[0], 64 * 28_340 + 2);
    assert_eq!(seen[1], json!([]), "both ends hold a card number");
}

#[test]
fn a_slow_reader_holds_the_server_back_instead_of_filling_memory() {
    let mut daemon = masked();
    python(&daemon, &download("/stream?mib=8", false));
    let pid = daemon.pid();
    let before = reset_peak(pid);
    // Reads a little, looks at nothing more while other requests are answered, then reads on.
    let seen = python(
        &daemon,
        r#"
import httpx
with httpx.Client(verify=context(), timeout=120) as client:
    with client.stream("GET", f"{BASE}/stream?mib=128") as got:
        pieces = got.iter_raw()
        count = len(next(pieces))
        for n in range(50):
            assert httpx.get(f"{BASE}/echo?n={n}", verify=context()).status_code == 200
        say(count + sum(len(piece) for piece in pieces))
"#,
    );
    assert_eq!(seen, 128 << 20);
    let grown = peak_kb(pid).saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "{before} kB grew by {grown} kB");
}

/// A guard that has to see the body, and what is done with one that is too large or cannot be read.
fn uninspected(what: &str) -> Daemon {
    daemon(&format!(
        "[defaults]\ninspect_bytes = \"64KiB\"\nuninspected = \"{what}\"\n\n\
         [[guard]]\nname = \"no admin\"\non = \"http\"\njson = [\"$.admin\"]\naction = \"deny\"\n"
    ))
}

/// Posts JSON of this size and says the status.
fn post(daemon: &Daemon, mark: &str, bytes: usize) -> u64 {
    let script = format!(
        r#"
import httpx
body = json.dumps({{"padding": "x" * ({bytes} - 14)}}).encode()
got = httpx.post(f"{{BASE}}/upload?{mark}", content=body, headers={{"content-type": "application/json"}}, verify=context(), timeout=60)
assert got.status_code != 200 or got.json()["sha256"] == hashlib.sha256(body).hexdigest()
say(got.status_code)
"#
    );
    python(daemon, &script).as_u64().unwrap()
}

#[test]
fn a_body_beyond_inspection_follows_the_policy() {
    for (what, status, arrives) in [("deny", 403, 0), ("allow", 200, 1)] {
        let daemon = uninspected(what);
        let mark = marker("uninspected");
        assert_eq!(post(&daemon, &mark, 100_000), status, "{what}");
        assert_eq!(reached(&mark), arrives, "{what}");
        // Within the bound it is judged as ever.
        let small = marker("inspected");
        assert_eq!(post(&daemon, &small, 60_000), 200, "{what}");
        assert_eq!(reached(&small), 1);
    }
}

#[test]
fn a_body_beyond_inspection_is_held() {
    let daemon = uninspected("hold");
    let mark = marker("uninspected-held");
    let script = format!(
        r#"
import httpx
body = json.dumps({{"padding": "x" * 100_000}})
httpx.post(f"{{BASE}}/upload?{mark}", content=body, headers={{"content-type": "application/json"}}, verify=context(), timeout=60)
"#
    );
    let client = talking(&daemon, &script);
    daemon.until(&["status"], |status| status[0]["holds"] == 1).unwrap();
    assert_eq!(reached(&mark), 0, "nothing is sent before the decision");
    // Nobody of the operators is there to decide; the client gives up.
    drop(client);
    daemon.until(&["status"], |status| status[0]["holds"] == 0).unwrap();
    assert_eq!(reached(&mark), 0);
}

#[test]
fn a_body_that_cannot_be_decoded_follows_the_policy() {
    for (what, status, arrives) in [("deny", 403, 0), ("allow", 200, 1)] {
        let daemon = uninspected(what);
        let mark = marker("undecodable");
        let url = format!("https://api.shop.test:PORT/upload?{mark}");
        let seen = answer(
            &daemon,
            &[
                "--header",
                "Content-Type: application/json",
                "--header",
                "Content-Encoding: gzip",
                "--data",
                "this is not gzip",
                &url,
            ],
        );
        assert_eq!(seen.status, status, "{what}: {seen:?}");
        assert_eq!(reached(&mark), arrives, "{what}");
    }
}

#[test]
fn a_compressed_request_is_judged_by_what_it_says() {
    let daemon = uninspected("deny");
    let mark = marker("compressed");
    let seen = python(
        &daemon,
        &format!(
            r#"
import gzip, zlib, brotli, zstandard, httpx
seen = {{}}
for text in ('{{"admin": true}}', '{{"user": true}}'):
    for coding, pack in [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress),
                         ("zstd", zstandard.ZstdCompressor().compress)]:
        got = httpx.post(f"{{BASE}}/upload?{mark}", content=pack(text.encode()), verify=context(),
                         headers={{"content-type": "application/json", "content-encoding": coding}})
        seen[f"{{coding}} {{text}}"] = got.status_code
say(seen)
"#
        ),
    );
    let expected = |text: &str| if text.contains("admin") { 403 } else { 200 };
    let seen = seen.as_object().unwrap();
    assert_eq!(seen.len(), 8);
    for (text, status) in seen {
        assert_eq!(status, expected(text), "{text}");
    }
    assert_eq!(reached(&mark), 4);
}

#[test]
fn a_small_body_that_unpacks_to_a_large_one_is_not_read_without_end() {
    let mut daemon = uninspected("deny");
    let mark = marker("bomb");
    let script = format!(
        r#"
import gzip, httpx
bomb = gzip.compress(b'{{"padding": "' + b"x" * (256 << 20) + b'"}}')
got = httpx.post(f"{{BASE}}/upload?{mark}", content=bomb, verify=context(), timeout=60,
                 headers={{"content-type": "application/json", "content-encoding": "gzip"}})
say(got.status_code)
"#
    );
    assert_eq!(measured(&mut daemon, "say(0)", &script), 403);
    assert_eq!(reached(&mark), 0);
}
