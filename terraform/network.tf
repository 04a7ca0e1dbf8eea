# The VPC: a private subnet for all hosts, and one that holds the NAT gateway alone, by which they reach AWS and Debian's mirrors.
# No host has a public address. Where var.subnet_ids names subnets, nothing of this is made.

resource "aws_vpc" "made" {
  #checkov:skip=CKV2_AWS_11:flow logs cost by the gigabyte, and each rule of the security groups names both of its ends
  count = local.makes_vpc ? 1 : 0

  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = var.name }
}

# The group that AWS makes for each VPC: without a rule, so that what forgets its group reaches nothing.
resource "aws_default_security_group" "made" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.made[0].id
}

resource "aws_subnet" "hosts" {
  count = local.makes_vpc ? 1 : 0

  # AWS chooses the availability zone, and keeps to it.
  vpc_id     = aws_vpc.made[0].id
  cidr_block = cidrsubnet(var.vpc_cidr, 1, 0)

  tags = { Name = "${var.name}-hosts" }

  lifecycle {
    precondition {
      # Half of the VPC, in which AWS keeps five addresses for itself.
      condition     = var.job_hosts + 3 <= pow(2, 31 - tonumber(split("/", var.vpc_cidr)[1])) - 5
      error_message = "The vpc_cidr ${var.vpc_cidr} has too few addresses for ${var.job_hosts} job_hosts and three servers; take a network with a shorter prefix, such as 10.64.0.0/24."
    }
  }
}

resource "aws_subnet" "gateway" {
  count = local.makes_vpc ? 1 : 0

  vpc_id            = aws_vpc.made[0].id
  cidr_block        = cidrsubnet(var.vpc_cidr, 2, 3)
  availability_zone = aws_subnet.hosts[0].availability_zone

  tags = { Name = "${var.name}-gateway" }
}

resource "aws_internet_gateway" "made" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.made[0].id

  tags = { Name = var.name }
}

resource "aws_eip" "gateway" {
  count = local.makes_vpc ? 1 : 0

  domain = "vpc"

  tags = { Name = "${var.name}-gateway" }

  depends_on = [aws_internet_gateway.made]
}

resource "aws_nat_gateway" "made" {
  count = local.makes_vpc ? 1 : 0

  allocation_id = aws_eip.gateway[0].id
  subnet_id     = aws_subnet.gateway[0].id

  tags = { Name = var.name }
}

resource "aws_route_table" "gateway" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.made[0].id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.made[0].id
  }

  tags = { Name = "${var.name}-gateway" }
}

resource "aws_route_table_association" "gateway" {
  count = local.makes_vpc ? 1 : 0

  subnet_id      = aws_subnet.gateway[0].id
  route_table_id = aws_route_table.gateway[0].id
}

resource "aws_route_table" "hosts" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.made[0].id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.made[0].id
  }

  tags = { Name = "${var.name}-hosts" }
}

resource "aws_route_table_association" "hosts" {
  count = local.makes_vpc ? 1 : 0

  subnet_id      = aws_subnet.hosts[0].id
  route_table_id = aws_route_table.hosts[0].id
}

# S3 by a way of its own, which costs nothing: packages do not pass the NAT gateway.
resource "aws_vpc_endpoint" "s3" {
  count = local.makes_vpc ? 1 : 0

  vpc_id          = aws_vpc.made[0].id
  service_name    = "com.amazonaws.${var.region}.s3"
  route_table_ids = [aws_route_table.hosts[0].id]

  tags = { Name = "${var.name}-s3" }
}

data "aws_subnet" "given" {
  for_each = toset(var.subnet_ids)

  id = each.value

  lifecycle {
    postcondition {
      condition     = self.vpc_id == data.aws_subnet.given_first[0].vpc_id
      error_message = "The subnet_ids are of several VPCs; name subnets of one."
    }
  }
}

data "aws_subnet" "given_first" {
  count = local.makes_vpc ? 0 : 1

  id = var.subnet_ids[0]
}

# Names for the servers: a host that is replaced keeps its name, and certificates hold.
resource "aws_route53_zone" "private" {
  #checkov:skip=CKV2_AWS_38:DNSSEC signs public zones, and this one is answered inside the VPC alone
  #checkov:skip=CKV2_AWS_39:query logs are of public zones, and this one is answered inside the VPC alone
  name          = var.domain
  comment       = "The servers of the fleet ${var.name}"
  force_destroy = false

  vpc {
    vpc_id = local.vpc_id
  }
}
