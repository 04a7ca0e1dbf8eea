variable "region" {
  type        = string
  description = "The AWS region, such as eu-central-1."

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "The region is a name such as eu-central-1."
  }
}

variable "name" {
  type        = string
  default     = "conf"
  description = "The name of this fleet: the beginning of the names of all that is made, and of the path of its SSM parameters. It stays as it is while the fleet stands."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name)) && !can(regex("^(aws|ssm)", var.name))
    error_message = "The name has 2 to 20 lower-case letters, digits and '-', begins with a letter, and not with 'aws' or 'ssm', which AWS keeps for itself."
  }
}

variable "datacenter" {
  type        = string
  default     = "main/v1"
  description = "The datacenter that conf-slave and the test jobs follow, as ID/VERSION. It stays as it is while the fleet stands: tokens are made for it."

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", var.datacenter))
    error_message = "The datacenter is ID/VERSION, such as main/v1: two names of letters, digits, '.', '_' and '-'."
  }
}

variable "job_hosts" {
  type        = number
  default     = 2
  description = "How many hosts run conf-local and a test job."

  validation {
    condition     = var.job_hosts >= 1 && var.job_hosts <= 50 && floor(var.job_hosts) == var.job_hosts
    error_message = "The number of job_hosts is a whole number from 1 to 50: without a host, no change arrives anywhere."
  }
}

# Where the hosts stand.

variable "vpc_cidr" {
  type        = string
  default     = "10.64.0.0/24"
  description = "The addresses of the VPC that is made. It is not read where subnet_ids names subnets."

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && can(regex("/(1[6-9]|2[0-6])$", var.vpc_cidr))
    error_message = "The vpc_cidr is an IPv4 network as CIDR, from /16 to /26, such as 10.64.0.0/24."
  }
}

variable "subnet_ids" {
  type        = list(string)
  default     = []
  description = "Existing subnets of one VPC to put the hosts in: conf-master, conf-slave and Consul into the first, the test jobs one after the other into all. Empty: a VPC is made. From given subnets the hosts must reach AWS and Debian's mirrors, and their VPC must have DNS support and DNS host names switched on."

  validation {
    condition     = length([for id in var.subnet_ids : id if !can(regex("^subnet-[0-9a-f]{8,17}$", id))]) == 0 && length(distinct(var.subnet_ids)) == length(var.subnet_ids)
    error_message = "Each of the subnet_ids is an id such as subnet-0123456789abcdef0, and stands there once."
  }
}

variable "domain" {
  type        = string
  default     = "conf.internal"
  description = "The private DNS zone that is made for the VPC: the servers are master.DOMAIN, slave.DOMAIN and consul.DOMAIN there. It stays as it is while the fleet stands."

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.domain)) && length(var.domain) <= 200
    error_message = "The domain is a DNS name of two parts or more, such as conf.internal."
  }
}

variable "push_from" {
  type        = list(string)
  default     = []
  description = "Networks, as CIDRs, from which people reach conf-master on port 7400, such as a VPN's. Empty: nobody reaches it from outside but by a session of SSM."

  validation {
    condition     = length([for cidr in var.push_from : cidr if !(can(cidrnetmask(cidr)) && can(regex("^[0-9.]+/", cidr)))]) == 0
    error_message = "Each network of push_from is IPv4 as CIDR, such as 10.8.0.0/16 or 192.0.2.7/32."
  }

  validation {
    condition     = length([for cidr in var.push_from : cidr if can(regex("/0+$", cidr))]) == 0
    error_message = "The networks of push_from name who pushes, and '/0' is the whole Internet."
  }
}

variable "push_names" {
  type        = list(string)
  default     = []
  description = "Further DNS names by which people reach conf-master, the usual one first. Its certificate names them, and it answers to them. That they lead to it is up to you."

  validation {
    condition     = length([for name in var.push_names : name if !can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", name))]) == 0
    error_message = "Each of the push_names is a DNS name in lower case, such as conf.example.org."
  }
}

# What runs on them.

variable "packages" {
  type = object({
    conf_master = object({ url = string, sha256 = string })
    conf_slave  = object({ url = string, sha256 = string })
    conf_local  = object({ url = string, sha256 = string })
    consul      = object({ url = string, sha256 = string })
  })
  description = "Where the hosts get the three packages (.deb) and Consul (the .zip of HashiCorp's releases) from, as https://… or s3://BUCKET/KEY, and the SHA-256 of each file."

  validation {
    condition     = length([for name, package in var.packages : name if !can(regex("^(https://[^/'\\s]+/|s3://[a-z0-9.-]{3,63}/)[^'\\s]*\\.(deb|zip)$", package.url))]) == 0
    error_message = "The url of each package begins with https:// or with s3://BUCKET/, has no blank, and ends with .deb (Consul's with .zip)."
  }

  validation {
    condition     = length([for name, package in var.packages : name if can(regex("\\.zip$", package.url)) != (name == "consul")]) == 0
    error_message = "The packages conf_master, conf_slave and conf_local are .deb files, and consul is a .zip file."
  }

  validation {
    condition     = length([for name, package in var.packages : name if !can(regex("^[0-9a-f]{64}$", package.sha256))]) == 0
    error_message = "The sha256 of each package is what 'sha256sum FILE' prints: 64 digits and letters from a to f."
  }
}

variable "ssm_agent" {
  type        = object({ url = string, sha256 = string })
  default     = null
  description = "The package of Amazon's SSM agent for Debian, which the images of Debian lack, and its SHA-256. Null: no sessions of SSM; people need push_from then."

  validation {
    condition     = var.ssm_agent == null || (can(regex("^(https://[^/'\\s]+/|s3://[a-z0-9.-]{3,63}/)[^'\\s]*\\.deb$", var.ssm_agent.url)) && can(regex("^[0-9a-f]{64}$", var.ssm_agent.sha256)))
    error_message = "The ssm_agent has the url of a .deb file, as https://… or s3://BUCKET/KEY, and its sha256 of 64 digits and letters from a to f."
  }
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "The processors of instance types and packages: amd64 or arm64."

  validation {
    condition     = contains(["amd64", "arm64"], var.architecture)
    error_message = "The architecture is amd64 or arm64."
  }
}

variable "ami_id" {
  type        = string
  default     = null
  description = "The image of all hosts: Debian 12 with cloud-init. Null: Debian's newest one on the day of the first apply."

  validation {
    condition     = var.ami_id == null || can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "The ami_id is an id such as ami-0123456789abcdef0."
  }
}

variable "instance_types" {
  type = object({ master = string, slave = string, consul = string, job = string })
  default = {
    master = "t3.small"
    slave  = "t3.micro"
    consul = "t3.micro"
    job    = "t3.micro"
  }
  description = "The instance types, of the Nitro generation, which names volumes by their ids."

  validation {
    condition     = length([for type in values(var.instance_types) : type if !can(regex("^[a-z][a-z0-9-]*[0-9][a-z0-9-]*\\.[a-z0-9-]+$", type))]) == 0
    error_message = "Each of the instance_types is a name such as t3.micro."
  }

  validation {
    condition     = length([for type in values(var.instance_types) : type if can(regex("^(t1|t2|m[1-4]|c[1-4]|r3|r4|i2|d2|g2|g3|h1|p2|p3|x1|x1e)\\.", type))]) == 0
    error_message = "The instance_types t1, t2, m1 to m4, c1 to c4 and others before the Nitro generation do not show which volume is which: take t3, m5, c5 or later ones."
  }
}

# What is kept.

variable "master_volume_gib" {
  type        = number
  default     = 10
  description = "The size of conf-master's volume in GiB. It can grow later, and not shrink."

  validation {
    condition     = var.master_volume_gib >= 1 && var.master_volume_gib <= 16384 && floor(var.master_volume_gib) == var.master_volume_gib
    error_message = "The size master_volume_gib is a whole number from 1 to 16384."
  }
}

variable "master_snapshot_id" {
  type        = string
  default     = null
  description = "A snapshot of an earlier conf-master's volume to begin with; another one later replaces the volume. Null: an empty volume, or the one that is there."

  validation {
    condition     = var.master_snapshot_id == null || can(regex("^snap-[0-9a-f]{8,17}$", var.master_snapshot_id))
    error_message = "The master_snapshot_id is an id such as snap-0123456789abcdef0."
  }
}

variable "slave_volume_gib" {
  type        = number
  default     = 0
  description = "The size in GiB of a volume for conf-slave's mirror, which it keeps when the host is replaced. 0: none, and another host clones anew."

  validation {
    condition     = var.slave_volume_gib >= 0 && var.slave_volume_gib <= 16384 && floor(var.slave_volume_gib) == var.slave_volume_gib
    error_message = "The size slave_volume_gib is 0 for none, or a whole number up to 16384."
  }
}

variable "snapshot_hours" {
  type        = number
  default     = 6
  description = "How many hours are between two snapshots of conf-master's volume."

  validation {
    condition     = contains([1, 2, 3, 4, 6, 8, 12, 24], var.snapshot_hours)
    error_message = "The snapshot_hours are 1, 2, 3, 4, 6, 8, 12 or 24."
  }
}

variable "snapshots_kept" {
  type        = number
  default     = 28
  description = "How many snapshots of conf-master's volume are kept: 28 of 6 hours are a week."

  validation {
    condition     = var.snapshots_kept >= 1 && var.snapshots_kept <= 1000 && floor(var.snapshots_kept) == var.snapshots_kept
    error_message = "The number of snapshots_kept is a whole number from 1 to 1000."
  }
}

variable "kms_key_arn" {
  type        = string
  default     = null
  description = "The KMS key that encrypts volumes, snapshots and SSM parameters. Null: one is made, which costs a dollar a month."

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-f-]{36}$", var.kms_key_arn))
    error_message = "The kms_key_arn is the ARN of a key, such as arn:aws:kms:eu-central-1:123456789012:key/ and its id, and never empty; leave it out to have one made."
  }
}
