# The machines in one table, and what cloud-init does on each. User data holds no secret: names, addresses, sums of packages, and
# the paths of the parameters where the secrets are.

locals {
  job_names = [for number in range(1, var.job_hosts + 1) : "job-${number}"]

  # The names by which people reach conf-master: its own, further ones, and localhost for sessions of SSM.
  master_names = concat(["master.${var.domain}"], var.push_names, ["localhost"])

  # Where people reach conf-master: by a session of SSM, unless they come from a network of their own, by the first of its names.
  people_url = length(var.push_from) == 0 ? "https://localhost:7400" : "https://${concat(var.push_names, local.master_names)[0]}:7400"

  # By name: the role (which names its script), the packages, the parameters below /NAME that it reads and writes (secrets are
  # those of them that are encrypted), its volume, and what its script needs to know besides.
  machines = merge(
    {
      master = {
        role    = "master", package = "conf_master", volume = local.master_volume
        reads   = [], secrets = []
        writes  = ["shared/*", "admin/*", "slave/*", "consul/*", "jobs/*"]
        details = { MASTER_NAMES = join(" ", local.master_names), KMS_KEY = local.key_arn }
      }
      slave = {
        role    = "slave", package = "conf_slave", volume = local.slave_volume
        reads   = ["shared/*", "slave/*"], secrets = ["slave/*"]
        writes  = []
        details = {}
      }
      consul = {
        role    = "consul", package = "consul", volume = ""
        reads   = ["shared/*", "consul/*"], secrets = ["consul/*"]
        writes  = []
        details = {}
      }
    },
    { for name in local.job_names : name => {
      role    = "job", package = "conf_local", volume = ""
      reads   = ["shared/*", "jobs/*"], secrets = ["jobs/*"]
      writes  = []
      details = {}
    } },
  )

  packages = { for name, machine in local.machines : name => merge(
    { program = var.packages[machine.package] },
    { for key, agent in { ssm_agent = var.ssm_agent } : key => agent if agent != null },
  ) }

  settings = { for name, machine in local.machines : name => merge({
    MACHINE        = name
    REGION         = var.region
    PARAMETERS     = "/${var.name}"
    DATACENTER     = var.datacenter
    DOMAIN         = var.domain
    VOLUME         = machine.volume
    PACKAGE_URL    = local.packages[name].program.url
    PACKAGE_SHA256 = local.packages[name].program.sha256
    AGENT_URL      = try(local.packages[name].ssm_agent.url, "")
    AGENT_SHA256   = try(local.packages[name].ssm_agent.sha256, "")
  }, machine.details) }

  user_data = { for name, machine in local.machines : name => templatefile("${path.module}/templates/machine.yaml.tftpl", {
    name     = name
    settings = local.settings[name]
    common   = file("${path.module}/scripts/common.sh")
    script   = file("${path.module}/scripts/${machine.role}.sh")
  }) }

  # The first content, as commands: see outputs.tf.
  push = templatefile("${path.module}/templates/push.txt.tftpl", {
    name       = var.name
    region     = var.region
    datacenter = var.datacenter
    url        = local.people_url
  })
}
