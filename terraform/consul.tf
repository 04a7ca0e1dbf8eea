# Consul: one server with the pointers of the datacenter. It holds nothing that conf-slave would not publish again.

module "consul" {
  source = "./machine"

  name              = "${var.name}-consul"
  host_name         = "consul.${var.domain}"
  zone_id           = aws_route53_zone.private.zone_id
  ami_id            = local.ami_id
  instance_type     = var.instance_types.consul
  subnet_id         = local.subnet_ids[0]
  security_group_id = aws_security_group.of["consul"].id
  key_arn           = local.key_arn
  policy            = local.policies["consul"]
  user_data         = local.user_data["consul"]
}
