//! Commands: what passes, what is refused and in which words, what waits for a human, and what comes back.

use std::io::Write as _;
use std::process::Stdio;

use harness::process::{self, REVIEWER, Talking};
use harness::reviewer::{self, Reviewer, id_of};

use super::{ALLOW, daemon, daemon_with, server, ssh};

#[test]
fn a_look_passes_with_its_output_and_exit_status() {
    let daemon = daemon("");
    let seen = ssh(&daemon, "echo out; echo err >&2; false");
    assert_eq!((seen.code, seen.stdout.as_str()), (1, "out\n"), "{}\n{}", seen.stderr, daemon.log());
    assert!(seen.stderr.contains("err\n"), "{}", seen.stderr);
    assert_eq!(ssh(&daemon, "exit 7").code, 7);
}

#[test]
fn what_a_rule_denies_is_not_run_and_the_client_is_told() {
    let daemon = daemon(&format!(
        "[[guard]]\nname = \"nothing is removed\"\non = \"ssh\"\nprogram = [\"rm\"]\naction = \"deny\"\nhint = \"Move it.\"\n{ALLOW}"
    ));
    let folder = server().scratch("denied").unwrap();
    let file = folder.join("kept");
    std::fs::write(&file, "x").unwrap();
    for command in [
        format!("rm {}", file.display()),
        format!("ls; sudo rm -f {}", file.display()),
        format!("sh -c 'rm {}'", file.display()),
        format!("find {} -exec rm {{}} \\;", folder.display()),
    ] {
        let seen = ssh(&daemon, &command);
        assert_eq!(seen.code, 126, "{command}: {}\n{}", seen.stderr, daemon.log());
        assert_eq!(seen.stdout, "");
        assert!(
            seen.stderr.contains("nothing is removed") && seen.stderr.contains("Move it."),
            "{}",
            seen.stderr
        );
        assert!(file.exists());
    }
}

#[test]
fn a_held_command_waits_and_runs_once_it_is_approved() {
    let daemon = daemon(
        "[[guard]]\nname = \"a human looks\"\non = \"ssh\"\nkind = [\"rm -rf\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\nhold = \"60s\"\n",
    );
    let folder = server().scratch("held").unwrap();
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    for (decision, code, remains) in [("deny", 126, true), ("approve", 0, false)] {
        let victim = folder.join("victim");
        std::fs::create_dir_all(&victim).unwrap();
        let command = format!("rm -rf {}", victim.display());
        // Both streams as one, as at a terminal.
        let mut run = server().ssh(&daemon, &["-o", "LogLevel=ERROR"], &[&command]).unwrap();
        let client = Talking::spawn(&mut run).unwrap();
        let entry = reviewer.waiting().unwrap();
        let request = &entry["request"];
        assert_eq!(request["rule"], "a human looks");
        assert_eq!(request["effect"], "ddl");
        assert_eq!(request["content"]["statement"], command.as_str(), "{request}");
        assert!(victim.exists(), "nothing runs before the decision");
        let id = id_of(&entry);
        let decided =
            if decision == "approve" { reviewer.approve(&id, "fine") } else { reviewer.deny(&id, "no") };
        assert_eq!(decided.unwrap().code, 0);
        let seen = client.finish().unwrap();
        let told = format!("{}{}", seen.stdout, seen.stderr);
        assert_eq!(seen.code, code, "{told}\n{}", daemon.log());
        assert!(told.contains("waiting for user:daemon") && told.contains(reviewer::code(&id)), "{told}");
        assert_eq!(victim.exists(), remains);
    }
}

#[test]
fn a_held_command_is_withdrawn_with_its_client() {
    let daemon = daemon(
        "[[guard]]\nname = \"a human looks\"\non = \"ssh\"\nkind = [\"rm -rf\"]\naction = \"hold\"\n\
         approvers = [\"user:daemon\"]\nhold = \"60s\"\n",
    );
    let mut reviewer = Reviewer::watch(&daemon, REVIEWER).unwrap();
    let client = Talking::spawn(&mut server().ssh(&daemon, &[], &["rm -rf /nowhere"]).unwrap()).unwrap();
    let id = id_of(&reviewer.waiting().unwrap());
    drop(client);
    let settled = reviewer.settled(&id).unwrap();
    assert!(settled.to_string().contains("withdrawn"), "{settled}");
}

#[test]
fn large_data_goes_both_ways_at_once_and_comes_back_the_same() {
    let daemon = daemon(ALLOW);
    let folder = server().scratch("large").unwrap();
    let file = folder.join("data");
    let data: Vec<u8> =
        (0..24 * 1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &data).unwrap();
    for more in [&[][..], &["-o", "RekeyLimit=1M"]] {
        let mut run = server().ssh(&daemon, more, &["cat"]).unwrap();
        let output = folder.join("back");
        run.stdin(std::fs::File::open(&file).unwrap()).stdout(std::fs::File::create(&output).unwrap());
        assert!(run.status().unwrap().success(), "{}", daemon.log());
        assert!(std::fs::read(&output).unwrap() == data, "the bytes came back changed");
    }
}

#[test]
fn a_slow_reader_does_not_stop_what_it_sends() {
    let daemon = daemon(ALLOW);
    // The server says more than all windows hold before it reads anything: who waits for one direction stops the other.
    let mut run =
        server().ssh(&daemon, &[], &["head -c 20000000 /dev/zero; cat >/dev/null; echo done >&2"]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..200 {
            stdin.write_all(&[0; 65_536])?;
        }
        std::io::Result::Ok(())
    });
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(out.stdout.len(), 20_000_000);
    assert!(String::from_utf8_lossy(&out.stderr).contains("done"));
}

#[test]
fn shells_are_refused_unless_the_connection_records_them() {
    let refused = daemon("");
    let mut run = server().ssh(&refused, &["-tt"], &[]).unwrap();
    run.stdin(Stdio::null());
    let seen = process::finish(&mut run).unwrap();
    assert_eq!(seen.code, 126, "{}", seen.stderr);
    let told = format!("{}{}", seen.stdout, seen.stderr);
    assert!(told.contains("no interactive shell"), "{told}");

    let recorded = daemon_with("ssh = { interactive = \"record\" }", "");
    let mut run = server().ssh(&recorded, &["-tt"], &[]).unwrap();
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo in-a-$((40+2))-shell; exit 3\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", recorded.log());
    assert!(String::from_utf8_lossy(&out.stdout).contains("in-a-42-shell"));
}

#[test]
fn variables_pass_by_name_alone() {
    let daemon = daemon(ALLOW);
    let mut run =
        server().ssh(&daemon, &["-o", "SendEnv=LC_* SECRET_*"], &["echo \"[$LC_X][$SECRET_X]\""]).unwrap();
    run.env("LC_X", "seen").env("SECRET_X", "hidden");
    assert_eq!(process::finish(&mut run).unwrap().stdout, "[seen][]\n");
}

#[test]
fn secrets_in_output_are_masked_also_across_pieces() {
    let daemon =
        daemon(&format!("{ALLOW}\n[[mask]]\ndetect = [\"payment-card\", \"email\"]\nwith = \"redact\"\n"));
    let seen = ssh(
        &daemon,
        "printf 'card 4929718'; sleep 0.3; printf '300000004 end\\n'; echo a@example.com >&2; exit 4",
    );
    assert_eq!(seen.code, 4);
    let all = format!("{}{}", seen.stdout, seen.stderr);
    assert!(!all.contains("a@example.com"), "{all}");
    let seen = ssh(&daemon, "echo 4111111111111111 prompt");
    assert!(!seen.stdout.contains("4111111111111111") && seen.stdout.contains("prompt"), "{}", seen.stdout);
}
