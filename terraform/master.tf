# conf-master: one host, whose repository and keys are on a volume of their own with scheduled snapshots. An accepted push survives
# a power cut, so a snapshot of the running volume is whole.

module "master" {
  source = "./machine"

  name              = "${var.name}-master"
  host_name         = "master.${var.domain}"
  zone_id           = aws_route53_zone.private.zone_id
  ami_id            = local.ami_id
  instance_type     = var.instance_types.master
  subnet_id         = local.subnet_ids[0]
  security_group_id = aws_security_group.of["master"].id
  key_arn           = local.key_arn
  policy            = local.policies["master"]
  user_data         = local.user_data["master"]
}

resource "aws_ebs_volume" "master" {
  availability_zone = local.zone
  snapshot_id       = var.master_snapshot_id
  size              = var.master_volume_gib
  type              = "gp3"
  encrypted         = true
  kms_key_id        = local.key_arn
  final_snapshot    = true # What is destroyed by mistake can be had again: master_snapshot_id.

  tags = { Name = "${var.name}-master", snapshots = var.name }
}

resource "aws_volume_attachment" "master" {
  device_name                    = "/dev/sdf"
  instance_id                    = module.master.instance_id
  volume_id                      = aws_ebs_volume.master.id
  stop_instance_before_detaching = true
}

resource "aws_dlm_lifecycle_policy" "master" {
  description        = "Snapshots of the volume of ${var.name}-master"
  execution_role_arn = aws_iam_role.snapshots.arn
  state              = "ENABLED"

  policy_details {
    resource_types = ["VOLUME"]
    target_tags    = { snapshots = var.name }

    schedule {
      name      = "every ${var.snapshot_hours} hours"
      copy_tags = true

      create_rule {
        interval      = var.snapshot_hours
        interval_unit = "HOURS"
        times         = ["03:15"]
      }

      retain_rule {
        count = var.snapshots_kept
      }
    }
  }

  tags = { Name = "${var.name}-master" }
}

resource "aws_iam_role" "snapshots" {
  name        = "${var.name}-snapshots"
  description = "Takes and removes the snapshots of the volume of ${var.name}-master"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "dlm.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "snapshots" {
  role       = aws_iam_role.snapshots.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AWSDataLifecycleManagerServiceRole"
}
