# What AWS answers, and what follows from it. Nothing else in this folder asks whether the VPC was made or given.

data "aws_caller_identity" "me" {}

data "aws_partition" "here" {}

data "aws_ami" "debian" {
  count = var.ami_id == null ? 1 : 0

  most_recent = true
  owners      = ["136693071363"] # Debian's own account.

  filter {
    name   = "name"
    values = ["debian-12-${var.architecture}-*"]
  }
}

locals {
  makes_vpc  = length(var.subnet_ids) == 0
  vpc_id     = local.makes_vpc ? aws_vpc.made[0].id : data.aws_subnet.given_first[0].vpc_id
  subnet_ids = local.makes_vpc ? [aws_subnet.hosts[0].id] : var.subnet_ids
  zone       = local.makes_vpc ? aws_subnet.hosts[0].availability_zone : data.aws_subnet.given_first[0].availability_zone

  account   = data.aws_caller_identity.me.account_id
  partition = data.aws_partition.here.partition
  ami_id    = var.ami_id == null ? data.aws_ami.debian[0].id : var.ami_id
  key_arn   = var.kms_key_arn == null ? aws_kms_key.made[0].arn : var.kms_key_arn

  # The volumes, as the udev rules of a Nitro instance name them: by the id, without its '-'.
  master_volume = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${replace(aws_ebs_volume.master.id, "-", "")}"
  slave_volume  = var.slave_volume_gib == 0 ? "" : "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${replace(aws_ebs_volume.slave[0].id, "-", "")}"
}
