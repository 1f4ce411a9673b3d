//! `cargo xtask screenshots`: what the approvals page looks like, from the end-to-end tests that use it in a browser.

use anyhow::Result;

use crate::{needs, shell};

/// The tests that take the pictures on their way.
const TESTS: [&str; 2] = [
    "web_page::a_reviewer_sees_it_come_and_approves_it_by_keyboard",
    "web_page::a_session_is_shown_as_it_went",
];

/// Builds, runs the tests, and leaves the pictures in `tests/screenshots`.
pub(crate) fn run() -> Result<()> {
    needs::for_test()?;
    let folder = shell::root().join("tests/screenshots");
    std::fs::create_dir_all(&folder)?;
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "portcullis"]))?;
    let mut test = shell::cargo();
    test.args(["test", "--quiet", "--package", "tests", "--", "--exact"]).args(TESTS);
    test.env("PORTCULLIS_BIN", shell::target_dir().join("debug/portcullis"));
    test.env("PORTCULLIS_PYTHON", needs::PYTHON);
    test.env("PORTCULLIS_VENV_PYTHON", needs::python_venv()?);
    test.env("PORTCULLIS_OIDC_PROVIDER", needs::oidc_provider()?);
    test.env("PORTCULLIS_SCREENSHOTS", &folder);
    shell::run(&mut test)?;
    shell::say(&format!("pictures are in {}", folder.display()));
    Ok(())
}
