//! Files of cases, well and badly written, and every policy that is shipped against its own.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Case, CaseError, parse, run};
use crate::policy::load;
use crate::policy::trial::{Circumstances, untried};

#[test]
fn a_file_with_everything() {
    let text = "# comment\n\n@ as ci, dev\n@ connection db\n@ database shop\n@ search_path a, b\n@ rows 50\n> SELECT 1\n\
                >\n> , 2\n= allow read default -- why not\n> DROP TABLE t\n= hold ddl \"no drops -- ever\" -- too late\n";
    let cases = parse(text).expect("it is well written");
    let [first, second] = cases.as_slice() else { panic!("there are two cases") };
    assert_eq!(first.line, 11);
    assert_eq!(first.input, "SELECT 1\n\n, 2");
    assert_eq!(first.expected.to_string(), "allow read default");
    assert_eq!(first.why, "why not");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        first.circumstances,
        Circumstances {
            operation: None,
            user: None,
            protocol: None,
            groups: words(&["ci", "dev"]),
            claims: None,
            connection: Some("db".to_owned()),
            database: Some("shop".to_owned()),
            search_path: Some(words(&["a", "b"])),
            rows: Some(50),
            at_ms: None,
            used_up: Vec::new(),
        }
    );
    assert_eq!(second.circumstances, Circumstances::default(), "settings are for one case");
    assert_eq!(second.expected.to_string(), "hold ddl \"no drops -- ever\"");
    assert_eq!(second.why, "too late");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, expected) in [
        ("= allow read default -- x\n", "1: no statement stands before this"),
        ("> SELECT 1\n", "1: the last statement has no '= …' line"),
        (
            "> SELECT 1\n\n= allow read default -- x\n",
            "2: the statement above has no '= VERDICT EFFECT RULE -- WHY'",
        ),
        ("> SELECT 1\n# c\n= allow read default -- x\n", "2: the statement above has no"),
        ("> SELECT 1\n@ rows 1\n= allow read default -- x\n", "2: the statement above has no"),
        ("SELECT 1\n", "1: expected a line that starts with"),
        (">SELECT 1\n", "1: expected a line that starts with"),
        ("> SELECT 1\n= allow read default\n", "2: say why after ' -- '"),
        ("> SELECT 1\n= allow read default --\n", "2: say why after ' -- '"),
        ("> SELECT 1\n= permit read default -- x\n", "2: \"permit\" is no verdict"),
        ("> SELECT 1\n= allow reed default -- x\n", "2: \"reed\" is no effect"),
        ("> SELECT 1\n= allow read big writes -- x\n", "2: write '= VERDICT EFFECT RULE -- WHY'"),
        ("> SELECT 1\n= allow read \"big writes -- x\n", "2: write '= VERDICT EFFECT RULE -- WHY'"),
        ("> SELECT 1\n= allow\n", "2: write '= VERDICT EFFECT RULE -- WHY'"),
        ("@ nobody bob\n", "1: \"nobody\" cannot be set"),
        ("@ rows many\n", "1: \"many\" is not a number of rows"),
        ("@ as\n", "1: \"as\" needs a value"),
        ("\n@ rows 1\n", "2: no case follows the last '@' line"),
    ] {
        let errors = parse(text).expect_err(text);
        let shown: Vec<String> =
            errors.iter().map(|CaseError { line, message }| format!("{line}: {message}")).collect();
        assert!(shown.iter().any(|shown| shown.starts_with(expected)), "{text:?}: {shown:?}");
    }
}

#[test]
fn every_error_is_reported() {
    let errors = parse("x\ny\n@ rows z\n").expect_err("three lines are wrong");
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2, 3]);
}

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

#[test]
fn every_shipped_policy_does_what_its_cases_say() {
    let (mut policies, mut count, mut wrong) = (0, 0, Vec::new());
    for entry in std::fs::read_dir(shipped()).expect("the folder is shipped") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        policies += 1;
        let loaded = load(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(loaded.warnings, [], "{path:?}");
        assert_eq!(Some(loaded.policy.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        let cases = parse(&std::fs::read_to_string(path.with_extension("cases")).unwrap());
        let cases: Vec<Case> = cases.unwrap_or_else(|errors| panic!("{path:?}: {errors:?}"));
        let mut rules = BTreeSet::new();
        for case in cases {
            count += 1;
            let came = run(&loaded.policy, &case).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            if came != case.expected {
                let Case { line, input, expected, why, .. } = case;
                wrong.push(format!(
                    "{}:{line}: expected {expected}, came {came}: {why}\n{input}",
                    path.display()
                ));
            }
            rules.insert(came.rule);
        }
        let untried = untried(&loaded.policy, &rules);
        if !untried.is_empty() {
            wrong.push(format!("{}: no case reaches {untried:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(policies >= 5 && count >= 60, "{policies} policies with {count} cases");
}
