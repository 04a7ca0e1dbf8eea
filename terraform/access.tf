# What each host may ask of AWS. Each has a role of its own, reads its own parameters and packages, and no more.

locals {
  parameter_arn = "arn:${local.partition}:ssm:${var.region}:${local.account}:parameter/${var.name}"

  # The rights of each machine, as the statements of its policy.
  statements = {
    for name, machine in local.machines : name => concat(
      [for paths in [machine.reads] : {
        Sid      = "ReadItsParameters"
        Effect   = "Allow"
        Action   = ["ssm:GetParameter"]
        Resource = [for path in paths : "${local.parameter_arn}/${path}"]
      } if length(paths) > 0],
      [for paths in [machine.secrets] : {
        Sid       = "DecryptItsParameters"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [local.key_arn]
        Condition = { StringLike = { "kms:EncryptionContext:PARAMETER_ARN" = [for path in paths : "${local.parameter_arn}/${path}"] } }
      } if length(paths) > 0],
      [for paths in [machine.writes] : {
        Sid      = "WriteTheParametersOfOthers"
        Effect   = "Allow"
        Action   = ["ssm:PutParameter"]
        Resource = [for path in paths : "${local.parameter_arn}/${path}"]
      } if length(paths) > 0],
      [for paths in [machine.writes] : {
        Sid       = "EncryptTheParametersOfOthers"
        Effect    = "Allow"
        Action    = ["kms:Encrypt"]
        Resource  = [local.key_arn]
        Condition = { StringLike = { "kms:EncryptionContext:PARAMETER_ARN" = [for path in paths : "${local.parameter_arn}/${path}"] } }
      } if length(paths) > 0],
      [for urls in [compact([for package in local.packages[name] : package.url if can(regex("^s3://", package.url))])] : {
        Sid      = "FetchItsPackages"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for url in urls : replace(url, "s3://", "arn:${local.partition}:s3:::")]
      } if length(urls) > 0],
      # AWS takes no narrower resource for these: they are about the instance that asks.
      [for agent in [var.ssm_agent] : {
        Sid    = "BeReachedBySessions"
        Effect = "Allow"
        Action = [
          "ssm:UpdateInstanceInformation",
          "ssmmessages:CreateControlChannel",
          "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel",
          "ssmmessages:OpenDataChannel",
        ]
        Resource = ["*"]
      } if agent != null],
    )
  }

  policies = { for name, statements in local.statements : name => jsonencode({ Version = "2012-10-17", Statement = statements }) }
}
