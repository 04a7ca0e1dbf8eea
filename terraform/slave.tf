# conf-slave, the cache of the datacenter, with a volume for its mirror where slave_volume_gib asks for one.

module "slave" {
  source = "./machine"

  name              = "${var.name}-slave"
  host_name         = "slave.${var.domain}"
  zone_id           = aws_route53_zone.private.zone_id
  ami_id            = local.ami_id
  instance_type     = var.instance_types.slave
  subnet_id         = local.subnet_ids[0]
  security_group_id = aws_security_group.of["slave"].id
  key_arn           = local.key_arn
  policy            = local.policies["slave"]
  user_data         = local.user_data["slave"]
}

resource "aws_ebs_volume" "slave" {
  #checkov:skip=CKV2_AWS_9:what is on it can be fetched again from conf-master
  count = var.slave_volume_gib == 0 ? 0 : 1

  availability_zone = local.zone
  size              = var.slave_volume_gib
  type              = "gp3"
  encrypted         = true
  kms_key_id        = local.key_arn

  tags = { Name = "${var.name}-slave" }
}

resource "aws_volume_attachment" "slave" {
  count = var.slave_volume_gib == 0 ? 0 : 1

  device_name                    = "/dev/sdf"
  instance_id                    = module.slave.instance_id
  volume_id                      = aws_ebs_volume.slave[0].id
  stop_instance_before_detaching = true
}
