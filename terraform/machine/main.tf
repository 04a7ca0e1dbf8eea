# One machine: an instance without a public address, a role of its own, and a name in the private zone.

terraform {
  required_version = ">= 1.5.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "6.25.0"
    }
  }
}

variable "name" {
  type        = string
  description = "The name of the instance, its role and its profile."
}

variable "host_name" {
  type        = string
  description = "Its full name in the private zone."
}

variable "zone_id" {
  type        = string
  description = "The private zone."
}

variable "ami_id" {
  type        = string
  description = "The image that it starts from for the first time. Another image later changes nothing by itself."
}

variable "instance_type" {
  type        = string
  description = "The type of the instance."
}

variable "subnet_id" {
  type        = string
  description = "The subnet that it stands in."
}

variable "security_group_id" {
  type        = string
  description = "The one security group that it has."
}

variable "key_arn" {
  type        = string
  description = "The KMS key of its root volume."
}

variable "policy" {
  type        = string
  description = "What it may ask of AWS, as JSON."
}

variable "user_data" {
  type        = string
  description = "What cloud-init does at each boot. Another text later stops the instance and starts it again."

  validation {
    condition     = length(base64gzip(var.user_data)) <= 16384 * 4 / 3
    error_message = "The user data of an instance has at most 16 KiB, packed."
  }
}

resource "aws_iam_role" "own" {
  name        = var.name
  description = "What the instance ${var.name} may ask of AWS"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "own" {
  name   = var.name
  role   = aws_iam_role.own.id
  policy = var.policy
}

resource "aws_iam_instance_profile" "own" {
  name = var.name
  role = aws_iam_role.own.name
}

resource "aws_instance" "own" {
  #checkov:skip=CKV_AWS_126:detailed monitoring costs two dollars a month for each instance, and the daemons have metrics of their own
  ami                    = var.ami_id
  instance_type          = var.instance_type
  subnet_id              = var.subnet_id
  vpc_security_group_ids = [var.security_group_id]
  iam_instance_profile   = aws_iam_instance_profile.own.name
  user_data_base64       = base64gzip(var.user_data) # cloud-init unpacks it.
  ebs_optimized          = true

  associate_public_ip_address = false

  # The state is on volumes, or can be fetched again: a new text of user data needs no new instance.
  user_data_replace_on_change = false

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted   = true
    kms_key_id  = var.key_arn
    volume_type = "gp3"
    volume_size = 8
  }

  tags = { Name = var.name }

  lifecycle {
    ignore_changes = [ami]
  }

  depends_on = [aws_iam_role_policy.own]
}

resource "aws_route53_record" "own" {
  zone_id = var.zone_id
  name    = var.host_name
  type    = "A"
  ttl     = 30
  records = [aws_instance.own.private_ip]
}

output "instance_id" {
  value       = aws_instance.own.id
  description = "The id of the instance."
}

output "host_name" {
  value       = var.host_name
  description = "Its name inside the VPC."
}
