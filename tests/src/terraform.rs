//! A real Terraform without a cloud: it judges the variables of `terraform/`, and renders what the
//! machines get.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{command, run, text};

/// The files that need no provider: what AWS answers is in `facts.tf`, for which [`FACTS`] stands.
const FILES: [&str; 4] = ["variables.tf", "cloud-init.tf", "access.tf", "parameters.tf"];
const FACTS: &str = r#"
locals {
  account       = "123456789012"
  partition     = "aws"
  key_arn       = var.kms_key_arn == null ? "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" : var.kms_key_arn
  master_volume = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0master"
  slave_volume  = var.slave_volume_gib == 0 ? "" : "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0slave"
}
output "rendered" {
  value = { user_data = local.user_data, policies = local.policies, parameters = local.parameters, push = local.push, key = local.key_arn }
}
"#;

/// What `terraform/` gives to the machines.
#[derive(Debug, Clone, Deserialize)]
pub struct Rendered {
    /// By machine, what cloud-init reads.
    pub user_data: BTreeMap<String, String>,
    /// By machine, what it may ask of AWS, as JSON.
    pub policies: BTreeMap<String, String>,
    /// The SSM parameters that conf-master's machine writes, below the name of the fleet.
    pub parameters: BTreeMap<String, String>,
    /// The commands of the first push.
    pub push: String,
    /// The KMS key.
    pub key: String,
}

/// The folder `terraform/`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").join("terraform")
}

/// A program that checks it; see `tests/get-terraform-checks`.
pub fn checker(what: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-terraform-checks");
    let mut found = command(script, Path::new(&std::env::var_os("HOME").unwrap_or_default()));
    found.arg(what);
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        found.env("CARGO_TARGET_DIR", target);
    }
    let found = run(found);
    assert!(found.status.success(), "{}", text(&found));
    String::from_utf8_lossy(&found.stdout).trim().into()
}

/// Makes a command of Terraform that asks nobody in the network.
pub fn terraform(folder: &Path) -> Command {
    let mut terraform = command(checker("terraform"), folder);
    terraform.current_dir(folder).env("CHECKPOINT_DISABLE", "1").env_remove("TF_LOG").env_remove("TF_CLI_CONFIG_FILE");
    terraform
}

/// Variables that are good.
pub fn variables() -> Value {
    let package = |name: &str| json!({"url": format!("s3://packages/{name}"), "sha256": "0".repeat(64)});
    json!({
        "region": "eu-central-1",
        "packages": {
            "conf_master": package("conf-master.deb"),
            "conf_slave": package("conf-slave.deb"),
            "conf_local": package("conf-local.deb"),
            "consul": package("consul.zip"),
        },
    })
}

/// Renders `terraform/` with variables, or returns what Terraform finds wrong with them, in one
/// line.
pub fn render(variables: &Value) -> Result<Rendered, String> {
    let copy = TempDir::new().expect("a folder can be made");
    let from = folder();
    for name in FILES {
        fs::copy(from.join(name), copy.path().join(name)).expect("the file is there");
    }
    for name in ["templates", "scripts"] {
        let to = copy.path().join(name);
        fs::create_dir(&to).expect("it is new");
        for file in fs::read_dir(from.join(name)).expect("the folder is there") {
            let file = file.expect("it can be read");
            fs::copy(file.path(), to.join(file.file_name())).expect("it can be copied");
        }
    }
    fs::write(copy.path().join("facts.tf"), FACTS).expect("it can be written");
    fs::write(copy.path().join("terraform.tfvars.json"), variables.to_string()).expect("it can be written");

    for arguments in [&["init", "-no-color"][..], &["apply", "-no-color", "-auto-approve"]] {
        let mut terraform = terraform(copy.path());
        terraform.args(arguments);
        let output = run(terraform);
        if !output.status.success() {
            return Err(in_one_line(&String::from_utf8_lossy(&output.stderr)));
        }
    }
    let state = fs::read_to_string(copy.path().join("terraform.tfstate")).expect("it has written a state");
    let mut state: Value = serde_json::from_str(&state).expect("the state is JSON");
    Ok(serde_json::from_value(state["outputs"]["rendered"]["value"].take()).expect("the output has its form"))
}

/// Returns the errors alone, without the lines of a log before and between them.
fn in_one_line(error: &str) -> String {
    let errors = error.lines().skip_while(|line| !line.starts_with("Error: "));
    let words = errors.filter(|line| !line.starts_with('[')).flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}
