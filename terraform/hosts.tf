# The hosts with conf-local and a test job.

module "job" {
  source   = "./machine"
  for_each = toset(local.job_names)

  name              = "${var.name}-${each.key}"
  host_name         = "${each.key}.${var.domain}"
  zone_id           = aws_route53_zone.private.zone_id
  ami_id            = local.ami_id
  instance_type     = var.instance_types.job
  subnet_id         = local.subnet_ids[index(local.job_names, each.key) % length(local.subnet_ids)]
  security_group_id = aws_security_group.of["jobs"].id
  key_arn           = local.key_arn
  policy            = local.policies[each.key]
  user_data         = local.user_data[each.key]
}
