//! Verdicts on SSH operations.

use super::SshAsked;
use crate::policy::rule::{Interactive, Policy, SshRules};
use crate::policy::{Verdict, load};
use crate::request::ssh::{OperationKind, SshOperation, exec, line, request, shell, subsystem};

fn policy(guards: &str) -> Policy {
    load(&format!("version = 1\nname = \"test\"\n{guards}")).unwrap().policy
}

fn decide(guards: &str, operation: &SshOperation) -> String {
    let rules = SshRules::default();
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation };
    let verdict = policy(guards).decide_ssh(&asked, &["ops".to_owned()]);
    format!("{} {}", verdict.word(), verdict.rule())
}

fn guard(name: &str, rest: &str) -> String {
    format!("[[guard]]\nname = \"{name}\"\non = \"ssh\"\n{rest}\n")
}

#[test]
fn without_guards_looks_pass_and_the_rest_waits() {
    assert_eq!(decide("", &exec(b"ls -la /srv | head")), "allow default");
    assert_eq!(decide("", &exec(b"rm -rf /srv/app")), "hold default");
    assert_eq!(decide("", &exec(b"ls; rm x")), "hold default");
    assert_eq!(decide("", &exec(b"\xff\xfe")), "hold default");
    assert_eq!(decide("", &subsystem("sftp")), "hold default");
    assert_eq!(decide("", &request(OperationKind::Pty, "xterm")), "allow default");
}

#[test]
fn what_leads_away_is_denied_unless_a_guard_speaks() {
    for kind in [
        OperationKind::DirectTcpip,
        OperationKind::TcpipForward,
        OperationKind::DirectStreamlocal,
        OperationKind::StreamlocalForward,
    ] {
        assert_eq!(decide("", &request(kind, "db:5432")), "deny default", "{kind}");
    }
    assert_eq!(decide("", &shell()), "deny default");
    let allowed = guard("db", "operation = [\"direct-tcpip\"]\ntarget = [\"db:5432\"]\naction = \"allow\"");
    assert_eq!(decide(&allowed, &request(OperationKind::DirectTcpip, "db:5432")), "allow db");
    assert_eq!(decide(&allowed, &request(OperationKind::DirectTcpip, "db:22")), "deny default");
}

#[test]
fn of_several_commands_one_is_enough_to_restrain_and_all_are_needed_to_permit() {
    let no_rm = guard("no rm", "program = [\"rm\"]\naction = \"deny\"");
    assert_eq!(decide(&no_rm, &exec(b"ls && sudo rm x")), "deny no rm");
    assert_eq!(decide(&no_rm, &exec(b"find . -exec rm {} +")), "deny no rm");
    let push = guard("push", "command = [\"git push*\", \"git pull*\"]\naction = \"allow\"");
    assert_eq!(decide(&push, &exec(b"git pull && git push origin main")), "allow push");
    assert_eq!(decide(&push, &exec(b"git push; rm x")), "hold default");
    assert_eq!(decide(&push, &exec(b"git push $X")), "hold default");
    let kind = guard("no databases", "kind = [\"drop database\"]\naction = \"deny\"");
    assert_eq!(decide(&kind, &exec(b"psql -c 'SELECT 1; DROP DATABASE x'")), "deny no databases");
}

#[test]
fn a_doubt_restrains_and_never_permits() {
    let no_rf = guard("no rf", "command = [\"rm -rf*\"]\naction = \"deny\"");
    assert_eq!(decide(&no_rf, &exec(b"rm $X")), "deny no rf");
    assert_eq!(decide(&no_rf, &exec(b"$CMD")), "deny no rf");
    assert_eq!(decide(&no_rf, &exec(b"ls $X")), "allow default");
    let files = guard("no etc", "file = [\"/etc/**\"]\naccess = [\"write\", \"remove\"]\naction = \"deny\"");
    assert_eq!(decide(&files, &exec(b"echo x > /etc/motd")), "deny no etc");
    assert_eq!(decide(&files, &exec(b"cp x /etc/motd")), "deny no etc");
    assert_eq!(decide(&files, &exec(b"cat /etc/motd")), "allow default");
    assert_eq!(decide(&files, &exec(b"cp x /srv/motd")), "hold default");
    let srv = guard("srv", "file = [\"/srv/**\"]\naction = \"allow\"");
    assert_eq!(decide(&srv, &exec(b"touch /srv/x")), "allow srv");
    assert_eq!(decide(&srv, &exec(b"touch /srv/x /etc/y")), "hold default");
    assert_eq!(decide(&srv, &exec(b"touch /srv/x $Y")), "hold default");
}

#[test]
fn unknown_is_allowed_only_where_a_guard_says_so() {
    let everything = guard("all", "connections = [\"web\"]\naction = \"allow\"");
    let connections = "[[connection]]\nname = \"web\"\nto = [\"web:22\"]\nprotocol = \"ssh\"\n\
        upstream = { credential = \"k\", known_hosts = \"/etc/ssh/ssh_known_hosts\" }\n";
    let all = format!("{connections}{everything}");
    assert_eq!(decide(&all, &exec(b"rm -rf /")), "allow all");
    assert_eq!(decide(&all, &exec(b"./deploy.sh")), "hold default");
    let deploy = guard("deploy", "command = [\"./deploy.sh *\"]\naction = \"allow\"");
    assert_eq!(decide(&deploy, &exec(b"./deploy.sh v1")), "allow deploy");
    assert_eq!(decide(&deploy, &exec(b"./deploy.sh v1; $X")), "hold default");
    assert_eq!(decide(&deploy, &exec(b"/tmp/deploy.sh v1")), "hold default");
    let sftp = guard("sftp", "operation = [\"subsystem\"]\ntarget = [\"sftp\"]\naction = \"allow\"");
    assert_eq!(decide(&sftp, &subsystem("sftp")), "allow sftp");
    assert_eq!(decide(&sftp, &subsystem("netconf")), "hold default");
}

#[test]
fn who_and_as_whom_are_conditions() {
    let root = guard("root", "user = [\"root\"]\naction = \"deny\"");
    assert_eq!(decide(&root, &exec(b"ls")), "allow default");
    let ops = guard("ops", "groups = [\"ops\"]\nuser = [\"dep*\"]\neffect = [\"write\"]\naction = \"allow\"");
    assert_eq!(decide(&ops, &exec(b"touch x")), "allow ops");
}

#[test]
fn a_refusal_names_the_command_without_control_characters() {
    let rules = SshRules::default();
    let operation = exec("rm -rf '/srv/\u{1b}[31m\u{202e}x'".as_bytes());
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation: &operation };
    let no_rm = policy(&guard("no rm", "program = [\"rm\"]\naction = \"deny\""));
    let Verdict::Deny { reason, .. } = no_rm.decide_ssh(&asked, &[]) else { panic!("not denied") };
    assert!(reason.contains("rm -rf '/srv/") && !reason.chars().any(char::is_control), "{reason}");
    assert!(!reason.contains('\u{202e}'));
}

#[test]
fn lines_are_judged_as_commands_and_a_doubt_never_permits_them() {
    assert_eq!(decide("", &line("ls -la", None)), "allow default");
    assert_eq!(decide("", &line("rm -rf x", None)), "hold default");
    assert_eq!(decide("", &line("ls", Some("edited"))), "hold default");
    assert_eq!(decide("", &line("", Some("typed without echo"))), "hold default");
    let no_rm = guard("no rm", "program = [\"rm\"]\naction = \"deny\"");
    let deploy = guard("deploy", "command = [\"./deploy.sh*\"]\naction = \"allow\"");
    let both = format!("{no_rm}{deploy}");
    assert_eq!(decide(&both, &line("rm x", Some("edited"))), "deny no rm");
    assert_eq!(decide(&both, &line("./deploy.sh v1", None)), "allow deploy");
    assert_eq!(decide(&both, &line("./deploy.sh v1", Some("edited"))), "hold default");
    let lines =
        guard("lines", "operation = [\"line\"]\neffect = [\"read\", \"unknown\"]\naction = \"allow\"");
    assert_eq!(decide(&lines, &line("", Some("typed without echo"))), "allow lines");
    assert_eq!(decide(&lines, &exec(b"$X")), "hold default");
    let rules = SshRules { interactive: Interactive::LineGuard, ..SshRules::default() };
    let operation = shell();
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation: &operation };
    assert_eq!(policy("").decide_ssh(&asked, &[]).word(), "allow");
}
