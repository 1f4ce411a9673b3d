//! Verdicts on SSH operations.

use super::SshAsked;
use crate::policy::rule::{Interactive, Policy, SshRules, Who};
use crate::policy::{Verdict, load};
use crate::request::Effect;
use crate::request::ssh::{
    Access, OperationKind, PathUse, SshOperation, exec, exec_on_terminal, line, request, shell, subsystem,
};

fn policy(guards: &str) -> Policy {
    load(&format!("version = 1\nname = \"test\"\n{guards}")).unwrap().policy
}

fn decide(guards: &str, operation: &SshOperation) -> String {
    let rules = SshRules::default();
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation };
    let verdict = policy(guards).decide_ssh(&asked, Who::in_groups(&["ops".to_owned()]));
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
    assert_eq!(decide("", &subsystem("netconf")), "hold default");
    // What is asked of it is judged by itself.
    assert_eq!(decide("", &subsystem("sftp")), "allow default");
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
    assert_eq!(decide("", &shell()), "deny interactive");
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
    let Verdict::Deny { reason, .. } = no_rm.decide_ssh(&asked, Who::in_groups(&[])) else {
        panic!("not denied")
    };
    assert!(reason.contains("rm -rf of /srv/") && !reason.chars().any(char::is_control), "{reason}");
    assert!(!reason.contains('\u{202e}'));
}

#[test]
fn a_refusal_does_not_repeat_what_a_command_was_told() {
    let rules = SshRules::default();
    let operation = exec(b"mysqladmin -u root -psecret123 drop shop");
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation: &operation };
    let no = policy(&guard("no", "program = [\"mysqladmin\"]\naction = \"deny\""));
    let Verdict::Deny { reason, .. } = no.decide_ssh(&asked, Who::in_groups(&[])) else {
        panic!("not denied")
    };
    assert!(reason.contains("mysqladmin") && !reason.contains("secret123"), "{reason}");
}

#[test]
fn an_allow_of_files_means_those_files() {
    let srv = guard("srv", "file = [\"/srv/**\"]\naction = \"allow\"");
    for escape in [
        "touch /srv/../etc/x",
        "touch /srv/*",
        "touch /srv/{a,b}",
        "touch ~root/x",
        "touch x",
        "sudo touch /srv/x",
    ] {
        assert_ne!(decide(&srv, &exec(escape.as_bytes())), "allow srv", "{escape}");
    }
    assert_eq!(decide(&srv, &exec(b"touch /srv/./a/x")), "allow srv");
    // What is above a link, only the server knows.
    assert_eq!(decide(&srv, &exec(b"touch /srv/a/../x")), "hold default");
    assert_eq!(decide(&srv, &exec(b"cd /srv/a && touch ../x")), "hold default");
    assert_eq!(decide(&srv, &exec(b"cd /srv/app && touch x")), "allow default");
    assert_eq!(decide(&srv, &exec(b"cd /srv/app; touch x")), "hold default");
    assert_eq!(decide(&srv, &exec(b"ls /srv/a && touch /srv/x")), "allow srv");
    let no_etc = guard("no etc", "file = [\"/etc/passwd\"]\naction = \"deny\"");
    for doubtful in
        ["echo x > $F", "cd $D; echo x > passwd", "cd /etc; echo x > passwd", "cat /srv/../etc/passwd"]
    {
        assert_eq!(decide(&no_etc, &exec(doubtful.as_bytes())), "deny no etc", "{doubtful}");
    }
}

#[test]
fn relative_paths_begin_where_the_policy_says() {
    let home = SshRules { home: Some("/home/deploy".to_owned()), ..SshRules::default() };
    let own = policy(&guard("own", "file = [\"/home/deploy/**\"]\naction = \"allow\""));
    let verdict = |line: &str| {
        let operation = exec(line.as_bytes());
        let asked = SshAsked { connection: "web", rules: &home, user: "deploy", operation: &operation };
        own.decide_ssh(&asked, Who::in_groups(&[])).rule().to_owned()
    };
    assert_eq!(verdict("touch notes/x"), "own");
    assert_eq!(verdict("touch ~/x"), "own");
    assert_eq!(verdict("touch $HOME/x"), "own");
    assert_eq!(verdict("touch ../x"), "default");
}

#[test]
fn an_allow_of_commands_means_their_options_too() {
    let pull = guard(
        "pull",
        "command = [\"git pull*\", \"git log --oneline *\", \"tail -n* *\"]\naction = \"allow\"",
    );
    assert_eq!(decide(&pull, &exec(b"git pull origin main")), "allow pull");
    assert_eq!(decide(&pull, &exec(b"git pull --upload-pack=/tmp/x origin")), "hold default");
    assert_eq!(decide(&pull, &exec(b"git pull -f origin")), "hold default");
    let sudo = guard(
        "sudo",
        "command = [\"sudo systemctl reload nginx\", \"sudo -u app ./deploy.sh\"]\naction = \"allow\"",
    );
    assert_eq!(decide(&sudo, &exec(b"sudo systemctl reload nginx")), "allow sudo");
    assert_eq!(decide(&sudo, &exec(b"sudo -n systemctl reload nginx")), "allow sudo");
    assert_eq!(decide(&sudo, &exec(b"systemctl reload nginx")), "hold default");
    assert_eq!(decide(&sudo, &exec(b"sudo -u app ./deploy.sh")), "allow sudo");
    assert_eq!(decide(&sudo, &exec(b"sudo ./deploy.sh")), "hold default");
    let plain = guard("plain", "command = [\"systemctl reload nginx\"]\naction = \"allow\"");
    for other in [
        "sudo systemctl reload nginx",
        "ssh db-1 systemctl reload nginx",
        "docker exec c systemctl reload nginx",
    ] {
        assert_eq!(decide(&plain, &exec(other.as_bytes())), "hold default", "{other}");
    }
    let no = guard("no", "command = [\"sudo systemctl stop *\"]\naction = \"deny\"");
    assert_eq!(decide(&no, &exec(b"sudo systemctl stop x")), "deny no");
}

#[test]
fn kinds_name_requests_of_kubernetes() {
    let no = guard("no", "kind = [\"delete deployments\", \"create pods/exec\"]\naction = \"deny\"");
    assert_eq!(decide(&no, &exec(b"kubectl delete deploy/api")), "deny no");
    assert_eq!(decide(&no, &exec(b"kubectl exec web-0 -- ls")), "deny no");
    assert_eq!(decide(&no, &exec(b"kubectl delete pod web-0")), "hold default");
    let pods = guard("pods", "kind = [\"delete pods\"]\naction = \"allow\"");
    assert_eq!(decide(&pods, &exec(b"kubectl delete pod web-0")), "allow pods");
    assert_eq!(decide(&pods, &exec(b"kubectl delete pod,deploy web-0")), "hold default");
    assert_eq!(decide(&pods, &exec(b"kubectl delete pod web-0 > /etc/x")), "hold default");
    let command = guard("command", "kind = [\"kubectl delete\"]\naction = \"allow\"");
    assert_eq!(decide(&command, &exec(b"kubectl delete deploy/api")), "allow command");
}

#[test]
fn what_is_not_understood_is_allowed_only_as_such() {
    let deploy = guard("deploy", "command = [\"./deploy.sh *\"]\naction = \"allow\"");
    assert_eq!(decide(&deploy, &exec(b"./deploy.sh v1; X=y; echo ${X@P}")), "hold default");
    assert_eq!(decide(&deploy, &exec(b"PATH=/tmp; ./deploy.sh v1")), "hold default");
    let anything = guard("anything", "effect = [\"unknown\"]\naction = \"allow\"");
    assert_eq!(decide(&anything, &exec(b"./deploy.sh v1; X=y; echo ${X@P}")), "allow anything");
}

#[test]
fn forwards_are_allowed_by_their_name_alone() {
    let all =
        guard("all", "effect = [\"read\", \"write\", \"ddl\", \"admin\", \"unknown\"]\naction = \"allow\"");
    for kind in [OperationKind::DirectTcpip, OperationKind::TcpipForward, OperationKind::StreamlocalForward] {
        assert_eq!(decide(&all, &request(kind, "db:5432")), "deny default", "{kind}");
    }
}

#[test]
fn no_guard_brings_a_shell_where_the_connection_has_none() {
    let all = guard("all", "operation = [\"shell\", \"exec\"]\neffect = [\"unknown\"]\naction = \"allow\"");
    assert_eq!(decide(&all, &shell()), "deny interactive");
    assert_eq!(decide(&all, &exec_on_terminal(b"sudo -i")), "deny interactive");
    assert_eq!(decide(&all, &exec(b"bash -s")), "allow all");
    let rules = SshRules { interactive: Interactive::Record, ..SshRules::default() };
    let shell = shell();
    let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation: &shell };
    assert_eq!(policy("").decide_ssh(&asked, Who::in_groups(&[])).word(), "allow");
}

#[test]
fn files_that_are_moved_are_judged_by_path() {
    let moved = |kind, path: &str, access, effect| SshOperation {
        paths: vec![PathUse { path: path.to_owned(), access }],
        literal: true,
        effect,
        target: None,
        ..request(kind, path)
    };
    let guards = guard("in", "operation = [\"upload\"]\nfile = [\"/srv/in/**\"]\naction = \"allow\"")
        + &guard("keys", "file = [\"**/.ssh/**\"]\naction = \"deny\"");
    let upload =
        |path: &str| decide(&guards, &moved(OperationKind::Upload, path, Access::Write, Effect::Write));
    assert_eq!(upload("/srv/in/a"), "allow in");
    assert_eq!(upload("/srv/in/../b"), "hold default");
    assert_eq!(upload("/srv/other"), "hold default");
    assert_eq!(upload(".ssh/authorized_keys"), "deny keys");
    let download =
        |path: &str| decide(&guards, &moved(OperationKind::Download, path, Access::Read, Effect::Read));
    assert_eq!(download("/srv/in/a"), "allow default");
    assert_eq!(download("/home/x/.ssh/id_rsa"), "deny keys");
    // Names of files are what they are: no shell makes others of them.
    assert_eq!(upload("/srv/in/[id].tsx"), "allow in");
    assert_eq!(download("/proc/self/root/srv/x"), "deny keys");
    assert_eq!(upload("/srv/in/../in/b"), "hold default");
}

#[test]
fn a_folder_that_is_moved_takes_along_what_a_rule_protects() {
    let guards = guard("secrets", "file = [\"/srv/app/secret/**\", \"**/.env\"]\naction = \"deny\"")
        + &guard("the rest", "effect = [\"read\", \"write\", \"ddl\"]\naction = \"allow\"");
    for line in [
        "rm -rf /srv/app",
        "mv /srv/app /srv/b",
        "tar czf - /srv",
        "cp -r /srv/app /tmp/x",
        "grep -r x /srv/app",
        "chmod -R 777 /srv/app",
        "ln -s /srv/app /tmp/x",
        "tar czf - /opt",
        "cat /proc/self/root/srv/app/secret/x",
    ] {
        assert_eq!(decide(&guards, &exec(line.as_bytes())), "deny secrets", "{line}");
    }
    for line in
        ["ls /srv/app", "cp /tmp/x /srv/app/y", "mv /srv/x.txt /srv/y.txt", "cat /srv/app/x", "stat /srv"]
    {
        assert_eq!(decide(&guards, &exec(line.as_bytes())), "allow the rest", "{line}");
    }
    let renamed = |from: &str, to: &str| {
        let paths = vec![
            PathUse { path: from.to_owned(), access: Access::Read },
            PathUse { path: to.to_owned(), access: Access::Write },
        ];
        SshOperation {
            paths,
            effect: Effect::Write,
            target: None,
            literal: true,
            ..request(OperationKind::Rename, from)
        }
    };
    assert_eq!(decide(&guards, &renamed("/srv/app", "/tmp/x")), "deny secrets");
    assert_eq!(decide(&guards, &renamed("/tmp/x", "/srv/app")), "deny secrets");
    assert_eq!(decide(&guards, &renamed("/srv/x", "/srv/y")), "allow the rest");
}

#[test]
fn lines_are_judged_as_commands_and_a_doubt_never_permits_them() {
    let rules = SshRules { interactive: Interactive::LineGuard, ..SshRules::default() };
    let decide = |guards: &str, operation: &SshOperation| {
        let asked = SshAsked { connection: "web", rules: &rules, user: "deploy", operation };
        let verdict = policy(guards).decide_ssh(&asked, Who::in_groups(&[]));
        format!("{} {}", verdict.word(), verdict.rule())
    };
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
    assert_eq!(decide("", &shell()), "allow default");
}
