# Who may reach which port. Each rule says why it is there; what has no rule is closed. DNS, the clock and the metadata of an
# instance are AWS's own and pass no security group.

locals {
  # From one group to another: the group that asks, the group that answers, the port, and why.
  paths = {
    slave-master = { from = "slave", to = "master", port = 7400, why = "conf-slave fetches snapshots and reports" }
    slave-consul = { from = "slave", to = "consul", port = 8501, why = "conf-slave publishes pointers" }
    jobs-slave   = { from = "jobs", to = "slave", port = 7401, why = "hosts fetch snapshots and report" }
    jobs-consul  = { from = "jobs", to = "consul", port = 8501, why = "hosts watch the pointer of their datacenter" }
    jobs-master  = { from = "jobs", to = "master", port = 7400, why = "hosts fetch here while conf-slave is away" }
  }

  groups = {
    master = "conf-master: the central repository"
    slave  = "conf-slave: the cache of the datacenter"
    consul = "Consul: pointers, never content"
    jobs   = "hosts with conf-local and a test job"
  }

  outward = {
    https = { port = 443, why = "SSM parameters, packages, sessions of SSM" }
    http  = { port = 80, why = "mirrors of Debian, whose packages are signed" }
  }
}

resource "aws_security_group" "of" {
  #checkov:skip=CKV2_AWS_5:each group is attached by the module machine
  for_each = local.groups

  name        = "${var.name}-${each.key}"
  description = each.value
  vpc_id      = local.vpc_id

  tags = { Name = "${var.name}-${each.key}" }
}

resource "aws_vpc_security_group_ingress_rule" "path" {
  for_each = local.paths

  security_group_id            = aws_security_group.of[each.value.to].id
  referenced_security_group_id = aws_security_group.of[each.value.from].id
  description                  = each.value.why
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_egress_rule" "path" {
  for_each = local.paths

  security_group_id            = aws_security_group.of[each.value.from].id
  referenced_security_group_id = aws_security_group.of[each.value.to].id
  description                  = each.value.why
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_ingress_rule" "push" {
  for_each = toset(var.push_from)

  security_group_id = aws_security_group.of["master"].id
  cidr_ipv4         = each.value
  description       = "people push and administer"
  ip_protocol       = "tcp"
  from_port         = 7400
  to_port           = 7400
}

resource "aws_vpc_security_group_egress_rule" "outward" {
  for_each = { for pair in setproduct(keys(local.groups), keys(local.outward)) : "${pair[0]}-${pair[1]}" => pair }

  security_group_id = aws_security_group.of[each.value[0]].id
  cidr_ipv4         = "0.0.0.0/0"
  description       = local.outward[each.value[1]].why
  ip_protocol       = "tcp"
  from_port         = local.outward[each.value[1]].port
  to_port           = local.outward[each.value[1]].port
}
