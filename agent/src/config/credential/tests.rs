//! Tables of credentials: what they mean, and every mistake at its place.

use std::path::Path;

use super::*;
use crate::config::Config;

fn parse(text: &str) -> Result<Sources, String> {
    Config::parse(text, Path::new("p.toml")).map(|config| config.sources).map_err(|error| error.to_string())
}

#[test]
fn each_source_is_read() {
    let sources = parse(
        "[credential.a]\nfrom = \"systemd\"\n[credential.b]\nfrom = \"systemd\"\nname = \"other\"\n\
         [credential.c]\nfrom = \"env\"\nvariable = \"SHOP_TOKEN\"\n\
         [credential.d]\nfrom = \"exec\"\ncommand = [\"/bin/get\", \"x y\"]\n\
         [credential.e]\nfrom = \"vault\"\naddress = \"https://v:8200/\"\npath = \"secret/data/o\"\n\
         auth = { method = \"kubernetes\", role = \"r\", token_file = \"/t\" }\n",
    )
    .unwrap();
    assert_eq!(sources["a"], Source::Systemd { name: "a".to_owned() });
    assert_eq!(sources["b"], Source::Systemd { name: "other".to_owned() });
    assert_eq!(sources["c"], Source::Env { variable: "SHOP_TOKEN".to_owned() });
    let command = vec!["/bin/get".to_owned(), "x y".to_owned()];
    assert_eq!(sources["d"], Source::Exec { command, timeout: COMMAND_TIME_DEFAULT });
    let Source::Vault(vault) = &sources["e"] else { panic!("no vault") };
    assert_eq!((vault.address.as_str(), vault.field.as_str()), ("https://v:8200", "password"));
    let (mount, role) = ("kubernetes".to_owned(), "r".to_owned());
    assert_eq!(vault.auth, VaultAuth::Jwt { mount, role, token_file: "/t".into() });
}

#[test]
fn mistakes_are_placed() {
    let vault = |rest: &str| {
        format!("[credential.e]\nfrom = \"vault\"\npath = \"a/b\"\naddress = \"https://v\"\n{rest}")
    };
    for (text, expected) in [
        ("[credential.a]\n".to_owned(), "p.toml:1:1: missing field `from`"),
        ("[credential.a]\nfrom = \"file\"\n".to_owned(), "p.toml:2:8: unknown variant `file`"),
        ("[credential.a]\nfrom = \"env\"\nx = 1\n".to_owned(), "p.toml:3:1: unknown field `x`"),
        ("[credential.a]\nfrom = \"env\"\n".to_owned(), "p.toml:1:1: from = \"env\" needs `variable`"),
        (
            "[credential.a]\nfrom = \"env\"\nvariable = \"$A\"\n".to_owned(),
            "p.toml:3:12: this cannot be a variable",
        ),
        (
            "[credential.a]\nfrom = \"env\"\nname = \"a\"\n".to_owned(),
            "p.toml:3:8: `name` is for from = \"systemd\"",
        ),
        ("[credential.\"a/b\"]\nfrom = \"systemd\"\n".to_owned(), "p.toml:1:13: this cannot be the name"),
        (
            "[credential.a]\nfrom = \"exec\"\ncommand = [\"get\"]\n".to_owned(),
            "p.toml:3:11: write the program by its",
        ),
        (
            "[credential.a]\nfrom = \"exec\"\ncommand = [\"/g\"]\ntimeout = \"2m\"\n".to_owned(),
            "p.toml:4:11: `2m` is not a time for a command",
        ),
        (vault(""), "p.toml:1:1: from = \"vault\" needs `auth`"),
        (vault("auth = { method = \"token\" }\n"), "p.toml:5:8: method = \"token\" needs `credential`"),
        (
            vault("auth = { method = \"token\", credential = \"e\" }\n"),
            "p.toml:5:41: `e` lies in Vault itself",
        ),
        (
            vault("auth = { method = \"token\", role = \"e\" }\n"),
            "p.toml:5:35: `role` has no use with method = \"token\"",
        ),
        (
            "[credential.e]\nfrom = \"vault\"\naddress = \"vault:8200\"\npath = \"a\"\n".to_owned(),
            "p.toml:3:11: write where Vault listens",
        ),
        (
            "[credential.e]\nfrom = \"vault\"\naddress = \"https://v\"\npath = \"/a/../b\"\n".to_owned(),
            "p.toml:4:8: `/a/../b` is no path in Vault",
        ),
    ] {
        let message = parse(&text).unwrap_err();
        assert!(message.starts_with(expected), "{text:?}: {message}");
    }
}
