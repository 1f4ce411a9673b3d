//! `cargo xtask screenshots`: what the approvals page looks like, from the end-to-end test that uses it in a browser.

use anyhow::Result;

use crate::{needs, shell};

/// The test that takes the pictures on its way.
const TEST: &str = "web_page::a_reviewer_sees_it_come_and_approves_it_by_keyboard";

/// Builds, runs the test, and leaves the pictures in `tests/screenshots`.
pub(crate) fn run() -> Result<()> {
    needs::for_test()?;
    let folder = shell::root().join("tests/screenshots");
    std::fs::create_dir_all(&folder)?;
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "portcullis"]))?;
    let mut test = shell::cargo();
    test.args(["test", "--quiet", "--package", "tests", "--", "--exact", TEST]);
    test.env("PORTCULLIS_BIN", shell::target_dir().join("debug/portcullis"));
    test.env("PORTCULLIS_PYTHON", needs::PYTHON);
    test.env("PORTCULLIS_VENV_PYTHON", needs::python_venv()?);
    test.env("PORTCULLIS_OIDC_PROVIDER", needs::oidc_provider()?);
    test.env("PORTCULLIS_SCREENSHOTS", &folder);
    shell::run(&mut test)?;
    shell::say(&format!("pictures are in {}", folder.display()));
    Ok(())
}
