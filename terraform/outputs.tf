output "url" {
  value       = "https://master.${var.domain}:7400"
  description = "Where conf-master is, inside the VPC."
}

output "instances" {
  value = merge(
    { master = module.master.instance_id, slave = module.slave.instance_id, consul = module.consul.instance_id },
    { for name, job in module.job : name => job.instance_id },
  )
  description = "The ids of the instances, by name."
}

output "parameters" {
  value       = { for path, what in local.parameters : "/${var.name}/${path}" => what }
  description = "The SSM parameters that conf-master's machine writes. Terraform removes none of them."
}

output "reach" {
  value = length(var.push_from) > 0 ? "From ${join(", ", var.push_from)}: ${local.people_url}" : (
    "Open a session of SSM and leave it open; conf-master is at ${local.people_url} then:\n  aws ssm start-session --region ${var.region} --target ${module.master.instance_id} --document-name AWS-StartPortForwardingSession --parameters portNumber=7400,localPortNumber=7400"
  )
  description = "How people reach conf-master."
}

output "push" {
  value       = local.push
  description = "What to push where: the first content, as commands for a shell."
}

output "watch" {
  value       = "aws ssm start-session --region ${var.region} --target ${module.job[local.job_names[0]].instance_id} --document-name AWS-StartInteractiveCommand --parameters 'command=[\"sudo journalctl --follow --unit conf-test-job\"]'"
  description = "Shows what a test job is told, where the fleet has the agent of SSM. The user of such a session reads the journal by sudo."
}
