//! Every family's store in a scratch root, with an update command that does what the real ones do.

use super::*;

/// Where each family's update command puts all roots together.
const BUNDLES: [(&str, &str); 4] = [
    ("fedora", "etc/pki/tls/certs/ca-bundle.crt"),
    ("suse", "etc/ssl/ca-bundle.pem"),
    ("arch", "etc/ssl/certs/ca-certificates.crt"),
    ("debian", "etc/ssl/certs/ca-certificates.crt"),
];

struct Scratch {
    folder: tempfile::TempDir,
    config: Config,
    family: &'static Family,
}

impl Scratch {
    fn new(family: &'static Family) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = Config {
            state_dir: path("state"),
            control_socket: path("run/control.sock"),
            ..Config::default()
        };
        let scratch = Self { folder, config, family };
        for name in ["state/ca", "run", "root/usr/sbin", "root/etc"] {
            fs::create_dir_all(scratch.folder.path().join(name)).unwrap();
        }
        match family.marks.first().unwrap() {
            file if file.ends_with(".conf") => fs::write(scratch.root().join(file), "").unwrap(),
            folder => fs::create_dir_all(scratch.root().join(folder)).unwrap(),
        }
        scratch.ca(b"the CA");
        scratch
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn ca(&self, certificate: &[u8]) {
        fs::write(self.config.state_dir.join("ca/ca.pem"), bundle::pem(certificate)).unwrap();
    }

    fn bundle(&self) -> PathBuf {
        let place = BUNDLES.iter().find(|(name, _)| *name == self.family.name).unwrap().1;
        self.root().join(place)
    }

    /// Puts an update command in place that writes its arguments down and joins the anchors.
    fn tool(&self, name: &str, first: &str) {
        let bundle = self.bundle();
        let script = format!(
            "#!/bin/sh\n{first}\necho \"{name} $*\" >>{root}/ran\nmkdir -p {folder}\n\
             {{ printf '%s' '{system}'; cat {root}/{anchors}/*.crt 2>/dev/null; }} >{bundle}\nexit 0\n",
            root = self.root().display(),
            folder = bundle.parent().unwrap().display(),
            system = bundle::pem(b"a root"),
            anchors = self.family.anchors,
            bundle = bundle.display(),
        );
        // Written by another process: other tests' children would inherit a descriptor of ours (ETXTBSY).
        let file = self.root().join("usr/sbin").join(name);
        let written = Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh", &script])
            .arg(&file)
            .status();
        assert!(written.unwrap().success());
    }

    fn ran(&self) -> String {
        fs::read_to_string(self.root().join("ran")).unwrap_or_default()
    }

    fn status(&self) -> (bool, Option<bool>, bool) {
        let status = status(&self.config, &self.root()).unwrap();
        assert_eq!(status.store, self.family.name);
        (status.installed, status.current, status.in_effect)
    }
}

fn failure(result: Result<String, Failure>) -> String {
    match result {
        Err(Failure::Failed(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_familys_store_takes_the_ca_and_gives_it_back() {
    for family in &FAMILIES {
        let scratch = Scratch::new(family);
        let root = scratch.root();
        let [tool, ..] = family.update.first().unwrap() else { panic!("no command") };
        scratch.tool(tool, "");
        let file = root.join(family.anchors).join("portcullis.crt");
        assert_eq!(scratch.status(), (false, Some(false), false), "{}", family.name);

        let told = install(&scratch.config, &root).unwrap();
        assert_eq!(told, format!("wrote {}\nran {tool}\n", file.display()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(scratch.status(), (true, Some(true), true));
        let told = install(&scratch.config, &root).unwrap();
        assert!(told.contains("already installed"), "{told}");
        assert_eq!(scratch.ran(), format!("{tool} \n"), "nothing was to do the second time");

        scratch.ca(b"a new CA");
        assert_eq!(scratch.status(), (true, Some(false), true));
        let told = install(&scratch.config, &root).unwrap();
        assert!(told.starts_with("replaced the CA in "), "{told}");
        let roots = fs::read_to_string(scratch.bundle()).unwrap();
        assert_eq!(roots, bundle::pem(b"a root") + &bundle::pem(b"a new CA"), "the old one is gone");

        let told = remove(&scratch.config, &root).unwrap();
        assert!(told.starts_with(&format!("removed {}\nran {tool}", file.display())), "{told}");
        assert_eq!(fs::read_to_string(scratch.bundle()).unwrap(), bundle::pem(b"a root"));
        assert_eq!(scratch.status(), (false, Some(false), false));
        let ran = scratch.ran();
        assert!(remove(&scratch.config, &root).unwrap().contains("nothing to do"));
        assert_eq!(scratch.ran(), ran);
    }
}

#[test]
fn a_removal_is_thorough_where_the_tool_can_be() {
    let debian = FAMILIES.last().unwrap();
    for (first, expected) in [
        ("", "update-ca-certificates \nupdate-ca-certificates --fresh\n"),
        ("case $1 in --fresh) exit 1;; esac", "update-ca-certificates \nupdate-ca-certificates \n"),
    ] {
        let scratch = Scratch::new(debian);
        scratch.tool("update-ca-certificates", first);
        install(&scratch.config, &scratch.root()).unwrap();
        remove(&scratch.config, &scratch.root()).unwrap();
        assert_eq!(scratch.ran(), expected);
    }
}

#[test]
fn p11_kits_own_command_does_where_there_is_no_wrapper() {
    let arch = FAMILIES.iter().find(|family| family.name == "arch").unwrap();
    let scratch = Scratch::new(arch);
    scratch.tool("trust", "");
    install(&scratch.config, &scratch.root()).unwrap();
    assert_eq!(scratch.ran(), "trust extract-compat\n");
}

#[test]
fn what_goes_wrong_is_said_and_can_be_tried_again() {
    let debian = FAMILIES.last().unwrap();
    let scratch = Scratch::new(debian);
    let root = scratch.root();
    let message = failure(install(&scratch.config, &root));
    assert!(
        message.starts_with("there is no update-ca-certificates"),
        "the host's own is not run: {message}"
    );
    scratch.tool("update-ca-certificates", "echo out of paper >&2; exit 3");
    let message = failure(install(&scratch.config, &root));
    assert!(
        message.contains("`update-ca-certificates` failed") && message.contains("out of paper"),
        "{message}"
    );
    scratch.tool("update-ca-certificates", "exit 0");
    let message = failure(install(&scratch.config, &root));
    assert!(message.contains("does not hold the CA"), "{message}");
    assert_eq!(scratch.status(), (true, Some(true), false));
    scratch.tool("update-ca-certificates", "");
    install(&scratch.config, &root).unwrap();
    assert_eq!(scratch.status(), (true, Some(true), true));

    fs::remove_dir_all(scratch.config.state_dir.join("ca")).unwrap();
    let message = failure(install(&scratch.config, &root));
    assert!(message.contains("the daemon makes it"), "{message}");
    assert_eq!(scratch.status(), (true, None, true));
    let empty = tempfile::tempdir().unwrap();
    assert!(failure(install(&scratch.config, empty.path())).contains("no store that is known here"));
}
