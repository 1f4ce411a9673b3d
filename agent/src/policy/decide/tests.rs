//! Decisions as a table: a policy, a statement, and what must come of it.

use crate::policy::decide::{PostgresOperation, objects_of};
use crate::policy::load;
use crate::policy::rule::{ChatUse, InTransaction, Policy, RowBound, Verdict, Who};
use crate::request::{ColumnUse, Effect, ObjectName, SessionAction, Statement, Unlisted};

fn policy_of(rules: &str) -> Policy {
    let connections = "[[connection]]\nname = \"db\"\nto = [\"127.0.0.1:1\"]\nprotocol = \"postgres\"\n\
                       [[connection]]\nname = \"other\"\nto = [\"127.0.0.1:2\"]\nprotocol = \"postgres\"\n";
    load(&format!("version = 1\nname = \"t\"\n{connections}{rules}"))
        .expect("the test's policy is valid")
        .policy
}

fn object(name: &str) -> ObjectName {
    match name.split_once('.') {
        Some((schema, name)) => ObjectName { schema: Some(schema.to_owned()), name: name.to_owned() },
        None => ObjectName { schema: None, name: name.to_owned() },
    }
}

fn objects(names: &[&str]) -> Vec<ObjectName> {
    names.iter().map(|name| object(name)).collect()
}

fn statement(kind: &str, effect: Effect) -> Statement {
    Statement {
        kind: kind.to_owned(),
        effect,
        reason: None,
        reads: Vec::new(),
        writes: Vec::new(),
        functions: Vec::new(),
        unlisted: Unlisted::none(effect, None),
        renames: false,
        unbounded: false,
        columns: ColumnUse::default(),
        session: SessionAction::None,
        copy: None,
        copies: false,
        span: 0..0,
    }
}

fn reads(names: &[&str]) -> Statement {
    Statement { reads: objects(names), ..statement("select", Effect::Read) }
}

fn writes(names: &[&str]) -> Statement {
    Statement { writes: objects(names), ..statement("update", Effect::Write) }
}

fn calls(kind: &str, names: &[&str]) -> Statement {
    Statement { functions: objects(names), ..statement(kind, Effect::Unknown) }
}

fn message<'a>(statements: &'a [Statement], estimates: &'a [Option<u64>]) -> PostgresOperation<'a> {
    PostgresOperation {
        connection: "db",
        database: "shop",
        statements,
        effect: statements.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Read),
        search_path: None,
        estimates,
        used: &[],
    }
}

/// `verdict rule` of one statement.
fn of(policy: &Policy, statement: &Statement) -> String {
    let verdict = policy.decide(&message(std::slice::from_ref(statement), &[]), Who::in_groups(&[]));
    format!("{} {}", verdict.word(), verdict.rule())
}

#[test]
fn defaults_decide_by_effect() {
    let plain = policy_of("");
    let strict = policy_of(
        "[defaults]\nread = \"hold\"\nwrite = \"deny\"\nddl = \"deny\"\nadmin = \"deny\"\nunknown = \"deny\"\n",
    );
    for (effect, by_plain, by_strict) in [
        (Effect::Read, "allow default", "hold default"),
        (Effect::Write, "hold default", "deny default"),
        (Effect::Ddl, "hold default", "deny default"),
        (Effect::Admin, "hold default", "deny default"),
        (Effect::Unknown, "hold default", "deny default"),
    ] {
        assert_eq!(of(&plain, &statement("x", effect)), by_plain, "{effect}");
        assert_eq!(of(&strict, &statement("x", effect)), by_strict, "{effect}");
    }
}

#[test]
fn the_first_matching_guard_wins() {
    let policy = policy_of(
        "[[guard]]\nname = \"a\"\non = \"postgres\"\neffect = [\"ddl\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"b\"\non = \"postgres\"\nkind = [\"drop *\"]\naction = \"hold\"\n\
         [[guard]]\nname = \"c\"\non = \"postgres\"\neffect = [\"ddl\", \"admin\"]\naction = \"allow\"\n",
    );
    assert_eq!(of(&policy, &statement("drop table", Effect::Ddl)), "deny a");
    assert_eq!(of(&policy, &statement("drop database", Effect::Admin)), "hold b");
    assert_eq!(of(&policy, &statement("grant", Effect::Admin)), "allow c");
    assert_eq!(of(&policy, &statement("select", Effect::Read)), "allow default");
}

#[test]
fn a_deny_needs_one_object_and_an_allow_needs_all() {
    let deny = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\nobjects = [\"public.secret_*\", \"keys\"]\naction = \"deny\"\n",
    );
    let allow = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\nobjects = [\"public.scratch_*\", \"tmp\"]\naction = \"allow\"\n",
    );
    let cases: &[(&Policy, &[&str], &str)] = &[
        (&deny, &["public.secret_plan"], "deny g"),
        (&deny, &["public.orders", "public.secret_plan"], "deny g"),
        (&deny, &["secret_plan"], "deny g"),
        (&deny, &["archive.secret_plan"], "hold default"),
        (&deny, &["archive.keys"], "deny g"),
        (&deny, &["keys"], "deny g"),
        (&deny, &["public.Secret_plan"], "hold default"),
        (&deny, &[], "hold default"),
        (&allow, &["public.scratch_1"], "allow g"),
        (&allow, &["public.scratch_1", "any.tmp", "tmp"], "allow g"),
        (&allow, &["public.scratch_1", "public.orders"], "hold default"),
        (&allow, &["scratch_1"], "hold default"),
        (&allow, &["evil.scratch_1"], "hold default"),
        (&allow, &[], "hold default"),
    ];
    for (policy, names, expected) in cases {
        assert_eq!(of(policy, &writes(names)), *expected, "{names:?}");
    }
}

#[test]
fn objects_are_those_read_and_those_written() {
    let policy = policy_of(
        "[[guard]]\nname = \"w\"\non = \"postgres\"\nwrites = [\"b\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"o\"\non = \"postgres\"\nobjects = [\"a\", \"b\"]\naction = \"hold\"\n",
    );
    assert_eq!(of(&policy, &reads(&["b"])), "hold o");
    assert_eq!(of(&policy, &writes(&["a"])), "hold o");
    assert_eq!(of(&policy, &writes(&["b"])), "deny w");
    assert_eq!(of(&policy, &reads(&["c"])), "allow default");
}

#[test]
fn a_known_search_path_settles_unqualified_names() {
    let deny = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\nobjects = [\"secret.*\"]\naction = \"deny\"\n",
    );
    let allow = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\nobjects = [\"public.*\"]\neffect = [\"write\"]\naction = \"allow\"\n",
    );
    let catalogue = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\nobjects = [\"pg_catalog.*\"]\naction = \"deny\"\n",
    );
    let cases: &[(&Policy, Option<&[&str]>, &str)] = &[
        (&deny, None, "deny g"),
        (&deny, Some(&["public"]), "hold default"),
        (&deny, Some(&["public", "secret"]), "deny g"),
        (&deny, Some(&[]), "hold default"),
        (&allow, None, "hold default"),
        (&allow, Some(&["public"]), "allow g"),
        (&allow, Some(&["evil", "public"]), "hold default"),
        (&allow, Some(&[]), "hold default"),
        (&catalogue, Some(&["public"]), "deny g"),
    ];
    let statement = writes(&["orders"]);
    for (policy, path, expected) in cases {
        let path: Option<Vec<String>> =
            path.map(|path| path.iter().map(|schema| (*schema).to_owned()).collect());
        let operation = PostgresOperation {
            search_path: path.as_deref(),
            ..message(std::slice::from_ref(&statement), &[])
        };
        let verdict = policy.decide(&operation, Who::in_groups(&[]));
        assert_eq!(format!("{} {}", verdict.word(), verdict.rule()), *expected, "{path:?}");
    }
}

#[test]
fn unknown_is_allowed_only_by_name() {
    let allow = |conditions: &str| {
        policy_of(&format!("[[guard]]\nname = \"g\"\non = \"postgres\"\n{conditions}\naction = \"allow\"\n"))
    };
    let everything = allow("");
    let listed = allow("effect = [\"unknown\"]");
    let by_call = allow("kind = [\"call\"]");
    let by_pattern = allow("kind = [\"c*\", \"*\"]");
    let by_select = allow("kind = [\"select\"]");
    let by_function = allow("functions = [\"app.refresh_*\"]");
    let on_database = allow("databases = [\"shop\"]");
    let call = calls("call", &["app.refresh_stats"]);
    let two = calls("select", &["app.refresh_stats", "app.purge"]);
    let unseen = Statement {
        session: SessionAction::Execute("p".to_owned()),
        ..calls("execute", &["app.refresh_stats"])
    };
    let block = statement("do", Effect::Unknown);
    let cases: &[(&str, &Policy, &Statement, &str)] = &[
        ("an allow of everything", &everything, &call, "hold default"),
        ("an allow of everything", &everything, &block, "hold default"),
        ("an allow of everything", &everything, &statement("drop database", Effect::Admin), "allow g"),
        ("unknown by name", &listed, &block, "allow g"),
        ("unknown by name", &listed, &unseen, "allow g"),
        ("unknown by name is not the rest", &listed, &statement("drop table", Effect::Ddl), "hold default"),
        ("an opaque command by name", &by_call, &call, "allow g"),
        ("an opaque command by name", &by_call, &block, "hold default"),
        ("a pattern is no name", &by_pattern, &call, "hold default"),
        ("select is not always opaque", &by_select, &two, "hold default"),
        ("select is not always opaque", &by_select, &reads(&["a"]), "allow g"),
        ("every function by name", &by_function, &call, "allow g"),
        ("one function of two by name", &by_function, &two, "hold default"),
        ("a block calls nothing that is seen", &by_function, &block, "hold default"),
        ("unseen text with a named function in it", &by_function, &unseen, "hold default"),
        (
            "an unqualified function may be another",
            &by_function,
            &calls("call", &["refresh_stats"]),
            "hold default",
        ),
        ("a database", &on_database, &block, "hold default"),
    ];
    for (title, policy, statement, expected) in cases {
        assert_eq!(of(policy, statement), *expected, "{title}: {}", statement.kind);
    }
}

#[test]
fn unknown_is_denied_by_any_guard_that_could_mean_it() {
    let policy =
        policy_of("[[guard]]\nname = \"g\"\non = \"postgres\"\ndatabases = [\"shop\"]\naction = \"deny\"\n");
    assert_eq!(of(&policy, &statement("do", Effect::Unknown)), "deny g");
}

#[test]
fn estimates_decide_and_doubt_restrains() {
    let hold = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\neffect = [\"read\", \"write\"]\nestimated_rows = \"> 1000\"\naction = \"hold\"\n",
    );
    let allow = policy_of(
        "[[guard]]\nname = \"g\"\non = \"postgres\"\neffect = [\"write\"]\nestimated_rows = \"<= 10\"\naction = \"allow\"\n",
    );
    let update = writes(&["orders"]);
    let select = reads(&["orders"]);
    let begin = statement("begin", Effect::Read);
    let cases: &[(&Policy, &Statement, &[Option<u64>], &str)] = &[
        (&hold, &select, &[Some(1000)], "allow default"),
        (&hold, &select, &[Some(1001)], "hold g"),
        (&hold, &select, &[None], "hold g"),
        (&hold, &select, &[], "hold g"),
        (&hold, &begin, &[], "allow default"),
        (&allow, &update, &[Some(10)], "allow g"),
        (&allow, &update, &[Some(11)], "hold default"),
        (&allow, &update, &[None], "hold default"),
        (&allow, &update, &[], "hold default"),
    ];
    for (policy, statement, estimates, expected) in cases {
        let verdict =
            policy.decide(&message(std::slice::from_ref(*statement), estimates), Who::in_groups(&[]));
        assert_eq!(
            format!("{} {}", verdict.word(), verdict.rule()),
            *expected,
            "{estimates:?} {}",
            statement.kind
        );
    }
}

#[test]
fn the_planner_is_asked_only_when_it_could_matter() {
    let policy = policy_of(
        "[[guard]]\nname = \"first\"\non = \"postgres\"\nkind = [\"delete\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"rows\"\non = \"postgres\"\neffect = [\"write\"]\nestimated_rows = \"> 5\"\naction = \"hold\"\n",
    );
    let needed =
        |statements: &[Statement]| policy.needs_estimate(&message(statements, &[]), Who::in_groups(&[]));
    assert_eq!(needed(&[writes(&["a"])]), [0]);
    assert_eq!(needed(&[reads(&["a"])]), [0_usize; 0], "no guard with an estimate speaks of reads");
    let delete = Statement { kind: "delete".to_owned(), ..writes(&["a"]) };
    assert_eq!(needed(std::slice::from_ref(&delete)), [0_usize; 0], "an earlier guard decides alone");
    assert_eq!(needed(&[reads(&["a"]), delete, writes(&["a"])]), [2]);
    assert_eq!(needed(&[]), [0_usize; 0]);
}

#[test]
fn a_guard_that_touches_nothing_does_not_ask_and_decides() {
    let policy = policy_of(
        "[[guard]]\nname = \"few\"\non = \"postgres\"\nestimated_rows = \"< 10\"\naction = \"allow\"\n\
         [[guard]]\nname = \"many\"\non = \"postgres\"\nestimated_rows = \">= 10\"\naction = \"hold\"\n",
    );
    let begin = [statement("begin", Effect::Read)];
    assert_eq!(policy.needs_estimate(&message(&begin, &[]), Who::in_groups(&[])), [0_usize; 0]);
    assert_eq!(of(&policy, &begin[0]), "allow few");
}

#[test]
fn groups_connections_databases_and_scope() {
    let policy = policy_of(
        "[[guard]]\nname = \"ci\"\non = \"postgres\"\ngroups = [\"ci\", \"dev\"]\nkind = [\"insert\"]\naction = \"allow\"\n\
         [[guard]]\nname = \"other\"\non = \"postgres\"\nconnections = [\"other\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"prod\"\non = \"postgres\"\ndatabases = [\"prod_*\"]\naction = \"deny\"\n\
         [[guard]]\nname = \"all rows\"\non = \"postgres\"\nunbounded = true\naction = \"deny\"\n\
         [[guard]]\nname = \"some rows\"\non = \"postgres\"\neffect = [\"write\"]\nunbounded = false\naction = \"allow\"\n",
    );
    let insert = [statement("insert", Effect::Write)];
    let all_rows = [Statement { unbounded: true, ..writes(&["a"]) }];
    let group = |name: &str| vec![name.to_owned()];
    let plain = message(&insert, &[]);
    let cases: &[(PostgresOperation<'_>, Vec<String>, &str)] = &[
        (plain, group("ci"), "allow ci"),
        (plain, group("dev"), "allow ci"),
        (plain, group("CI"), "allow some rows"),
        (plain, Vec::new(), "allow some rows"),
        (PostgresOperation { connection: "other", ..plain }, Vec::new(), "deny other"),
        (PostgresOperation { database: "prod_eu", ..plain }, Vec::new(), "deny prod"),
        (PostgresOperation { database: "my_prod_eu", ..plain }, Vec::new(), "allow some rows"),
        (message(&all_rows, &[]), Vec::new(), "deny all rows"),
    ];
    for (operation, groups, expected) in cases {
        let verdict = policy.decide(operation, Who::in_groups(groups));
        assert_eq!(format!("{} {}", verdict.word(), verdict.rule()), *expected);
    }
}

#[test]
fn the_strictest_statement_speaks_for_the_message() {
    let policy =
        policy_of("[[guard]]\nname = \"no\"\non = \"postgres\"\neffect = [\"admin\"]\naction = \"deny\"\n");
    let (read, write, admin) = (
        statement("select", Effect::Read),
        statement("insert", Effect::Write),
        statement("grant", Effect::Admin),
    );
    let cases: &[(&[Statement], &str)] = &[
        (&[], "allow default"),
        (&[read.clone(), read.clone()], "allow default"),
        (&[read.clone(), write.clone()], "hold default"),
        (&[write.clone(), read.clone()], "hold default"),
        (&[read.clone(), write.clone(), admin.clone()], "deny no"),
        (&[admin, write, read], "deny no"),
    ];
    for (statements, expected) in cases {
        let verdict = policy.decide(&message(statements, &[]), Who::in_groups(&[]));
        assert_eq!(format!("{} {}", verdict.word(), verdict.rule()), *expected);
    }
}

#[test]
fn a_disputed_message_is_judged_by_the_higher_effect() {
    let policy = policy_of("");
    let read = [reads(&["a"])];
    let disputed = PostgresOperation { effect: Effect::Unknown, ..message(&read, &[]) };
    assert_eq!(policy.decide(&disputed, Who::in_groups(&[])).word(), "hold");
    let named =
        policy_of("[[guard]]\nname = \"g\"\non = \"postgres\"\nfunctions = [\"now\"]\naction = \"allow\"\n");
    let call = [Statement { functions: objects(&["now"]), ..reads(&["a"]) }];
    assert_eq!(named.decide(&message(&call, &[]), Who::in_groups(&[])).rule(), "g");
    let disputed = PostgresOperation { effect: Effect::Unknown, ..message(&call, &[]) };
    assert_eq!(
        named.decide(&disputed, Who::in_groups(&[])).rule(),
        "default",
        "what a disputed statement calls is not known"
    );
    let nothing = PostgresOperation { effect: Effect::Unknown, ..message(&[], &[]) };
    assert_eq!(policy.decide(&nothing, Who::in_groups(&[])).word(), "deny");
    let lower = PostgresOperation { effect: Effect::Read, ..message(&read, &[]) };
    assert_eq!(policy.decide(&lower, Who::in_groups(&[])).word(), "allow");
}

#[test]
fn one_decision_must_be_entitled_to_every_hold() {
    let hold = |name: &str, kind: &str, terms: &str| {
        format!(
            "[[guard]]\nname = \"{name}\"\non = \"postgres\"\nkind = [\"{kind}\"]\naction = \"hold\"\n{terms}\n"
        )
    };
    let policy = policy_of(
        &[
            hold(
                "a",
                "insert",
                "approvers = [\"dba\", \"owner\"]\nhold = \"10m\"\nin_transaction = \"hold\"",
            ),
            hold(
                "b",
                "update",
                "approvers = [\"dba\"]\nhold = \"5m\"\nin_transaction = \"hold\"\nchat = \"link\"",
            ),
            hold("c", "delete", "approvers = [\"legal\"]"),
            hold("d", "merge", ""),
            hold("e", "truncate", "approvers = [\"dba\"]\nstep_up = \"5m\"\nacr = [\"phr\", \"mfa\"]"),
            hold("f", "copy", "approvers = [\"dba\"]\nstep_up = \"1m\"\nacr = [\"phr\"]"),
            hold("g", "lock", "approvers = [\"dba\"]\nacr = [\"pwd\"]"),
        ]
        .concat(),
    );
    let of = |kinds: &[&str]| {
        let statements: Vec<Statement> = kinds.iter().map(|kind| statement(kind, Effect::Write)).collect();
        policy.decide(&message(&statements, &[]), Who::in_groups(&[]))
    };
    let Verdict::Hold { rule, terms, .. } = of(&["insert", "update"]) else { panic!("it is held") };
    assert_eq!((rule.as_str(), terms.approvers.as_slice()), ("a", ["dba".to_owned()].as_slice()));
    assert_eq!((terms.timeout.as_secs(), terms.in_transaction), (300, InTransaction::Hold));
    assert_eq!(terms.chat, ChatUse::Link, "the narrower one");
    let Verdict::Hold { terms, .. } = of(&["merge", "insert"]) else { panic!("it is held") };
    assert_eq!(terms.approvers, ["dba", "owner"], "a hold for anyone does not widen the other");
    assert_eq!((terms.timeout.as_secs(), terms.in_transaction), (600, InTransaction::Refuse));
    let Verdict::Hold { terms, .. } = of(&["insert", "merge"]) else { panic!("it is held") };
    assert_eq!(terms.approvers, ["dba", "owner"]);
    let Verdict::Deny { rule, reason, hint } = of(&["insert", "delete"]) else { panic!("it is denied") };
    assert_eq!(rule, "a");
    assert_eq!(reason, "the rules \"a\" and \"c\" hold this for people who have no group in common");
    assert_eq!(hint.as_deref(), Some("If these are several statements, send them one at a time."));
    for (kinds, expected) in [
        (["update", "truncate"], "within 5m with phr or mfa"),
        (["truncate", "copy"], "within 1m with phr"),
        (["lock", "update"], "with pwd"),
    ] {
        let Verdict::Hold { terms, .. } = of(&kinds) else { panic!("it is held") };
        assert_eq!(terms.step_up.unwrap().to_string(), expected, "{kinds:?}");
    }
    let Verdict::Deny { reason, .. } = of(&["copy", "lock"]) else { panic!("it is denied") };
    assert!(
        reason.ends_with("hold this, and no sign-in of whoever approves is good enough for both (acr)"),
        "{reason}"
    );
}

#[test]
fn refusals_say_what_which_rule_and_what_to_do() {
    let policy = policy_of(
        "[[guard]]\nname = \"no drops\"\non = \"postgres\"\nkind = [\"drop *\"]\naction = \"deny\"\nhint = \"Ask in #dba.\"\n\
         [defaults]\nadmin = \"deny\"\nunknown = \"deny\"\n",
    );
    let deny = |statement: Statement| match policy.decide(&message(&[statement], &[]), Who::in_groups(&[])) {
        Verdict::Deny { reason, hint, .. } => (reason, hint.unwrap_or_default()),
        other @ (Verdict::Allow { .. } | Verdict::Hold { .. }) => panic!("{other:?}"),
    };
    let drop = Statement {
        writes: objects(&["public.a", "b", "c", "d", "e"]),
        ..statement("drop table", Effect::Ddl)
    };
    let (reason, hint) = deny(drop);
    assert_eq!(
        reason,
        "drop table public.a, b, c and 2 more (ddl) is denied by rule \"no drops\" of policy \"t\""
    );
    assert_eq!(hint, "Ask in #dba.");
    let file = Statement {
        reason: Some("calls pg_read_file".to_owned()),
        functions: objects(&["pg_read_file"]),
        ..statement("select", Effect::Admin)
    };
    let (reason, hint) = deny(file);
    assert_eq!(reason, "select (admin: calls pg_read_file) is denied: no guard of policy \"t\" allows it");
    assert!(hint.contains("ask the owner of policy \"t\""), "{hint}");
    let (reason, _) =
        deny(Statement { writes: objects(&["a\u{1b}[2J"]), ..statement("drop table", Effect::Ddl) });
    assert!(reason.contains("a\\u{1b}[2J"), "{reason}");
    let long = "x".repeat(10_000);
    let (reason, _) = deny(Statement { writes: objects(&[&long]), ..statement("drop table", Effect::Ddl) });
    assert!(reason.len() < 300, "{}", reason.len());
}

#[test]
fn objects_are_listed_once_written_first() {
    let statement = Statement { reads: objects(&["a", "public.b"]), ..writes(&["c", "a"]) };
    let listed: Vec<String> = objects_of(&statement).iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["c", "a", "public.b"]);
}

#[test]
fn bounds_contain_their_edges() {
    for (bound, inside, outside) in [
        (RowBound::Above(5), 6, 5),
        (RowBound::AtLeast(5), 5, 4),
        (RowBound::Below(5), 4, 5),
        (RowBound::AtMost(5), 5, 6),
    ] {
        assert!(bound.contains(inside) && !bound.contains(outside), "{bound:?}");
    }
}

fn strictness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allow { .. } => 0,
        Verdict::Hold { .. } => 1,
        Verdict::Deny { .. } => 2,
    }
}

#[test]
fn a_doubtful_hold_does_not_hide_a_later_deny() {
    let policy = policy_of(
        "[[guard]]\nname = \"h\"\non = \"postgres\"\nobjects = [\"secret.*\"]\naction = \"hold\"\n\
         [[guard]]\nname = \"d\"\non = \"postgres\"\neffect = [\"write\"]\naction = \"deny\"\n",
    );
    assert_eq!(of(&policy, &writes(&["orders"])), "deny d");
    assert_eq!(of(&policy, &writes(&["secret.orders"])), "hold h");
    assert_eq!(of(&policy, &reads(&["orders"])), "hold h");
}

/// A small generator (SplitMix64), so that every failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("it is small")
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len())]
    }

    fn guard(&mut self, index: usize) -> String {
        let mut text = format!("[[guard]]\nname = \"{index}\"\non = \"postgres\"\n");
        if self.roll(2) == 0 {
            let key = self.pick(&["objects", "writes"]);
            let pattern = self.pick(&["a.t", "b.*", "*.t", "t", "u", "pg_catalog.*"]);
            text.push_str(&format!("{key} = [\"{pattern}\"]\n"));
        }
        if self.roll(2) == 0 {
            let bound = self.pick(&["> 5", "<= 5", "< 100", ">= 100"]);
            text.push_str(&format!("estimated_rows = \"{bound}\"\n"));
        }
        let action = self.pick(&["action = \"allow\"", "action = \"deny\"", "action = \"hold\""]);
        text + action + "\n"
    }
}

#[test]
fn what_is_not_known_never_makes_a_verdict_milder() {
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let rules: String = (0..1 + dice.roll(5)).map(|index| dice.guard(index)).collect();
        let policy = policy_of(&rules);
        let statement = [Statement {
            reads: objects(&[dice.pick(&["t", "u", "a.t", "b.u"])]),
            ..writes(&[dice.pick(&["t", "u", "a.t", "b.u"])])
        }];
        let unknown = policy.decide(&message(&statement, &[]), Who::in_groups(&[]));
        for path in [&["a"][..], &["b"], &["a", "b"], &["b", "c"]] {
            let path: Vec<String> = path.iter().map(|schema| (*schema).to_owned()).collect();
            for rows in [0, 5, 6, 99, 100] {
                let estimates = [Some(rows)];
                let known = PostgresOperation { search_path: Some(&path), ..message(&statement, &estimates) };
                let verdict = policy.decide(&known, Who::in_groups(&[]));
                assert!(
                    strictness(&unknown) >= strictness(&verdict),
                    "seed {seed}: {unknown:?} but {verdict:?} with {path:?} and {rows} rows under\n{rules}"
                );
                let asked = PostgresOperation { search_path: Some(&path), ..message(&statement, &[]) };
                if policy.needs_estimate(&asked, Who::in_groups(&[])).is_empty() {
                    assert_eq!(
                        policy.decide(&asked, Who::in_groups(&[])),
                        verdict,
                        "seed {seed}: the planner mattered under\n{rules}"
                    );
                }
            }
        }
    }
}
