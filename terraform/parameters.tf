# The SSM parameters of the fleet, below /NAME. Terraform makes none of them, since its state would hold their values: conf-master's
# machine makes what is secret at its first boot and writes it there. cloud-init.tf says which machine reads which.

locals {
  parameters = {
    "shared/ca"               = "the certificate of the authority that signs for the servers"
    "shared/trusted-key"      = "the public key that signs snapshots"
    "admin/token"             = "the token of the first administrator of conf-master"
    "slave/token"             = "conf-slave's token at conf-master"
    "slave/tls"               = "conf-slave's certificate and its key"
    "slave/consul-token"      = "conf-slave's token at Consul: it may write pointers"
    "consul/tls"              = "Consul's certificate and its key"
    "consul/token-management" = "the token that may do everything at Consul"
    "consul/token-slave"      = "conf-slave's token, to be entered there"
    "consul/token-jobs"       = "the hosts' token, to be entered there"
    "jobs/join-token"         = "the token by which hosts join; each is known by its own key from then on"
    "jobs/consul-token"       = "the hosts' token at Consul: it may read the pointer"
  }
}
