# One key encrypts the volumes, their snapshots and the SSM parameters.

resource "aws_kms_key" "made" {
  count = var.kms_key_arn == null ? 1 : 0

  description             = "Volumes, snapshots and parameters of the fleet ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  # The account's own policies say who may use it: those of the hosts are in access.tf.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "PoliciesOfThisAccountSayWho"
      Effect    = "Allow"
      Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

resource "aws_kms_alias" "made" {
  count = var.kms_key_arn == null ? 1 : 0

  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.made[0].key_id
}
