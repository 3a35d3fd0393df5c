# What `pulumi up` needs of Vault. A security team reads it, then makes the token that deploys with:
#   vault policy write hybrid-recommender-deployer infra/deployer.hcl
#   vault token create -orphan -policy=hybrid-recommender-deployer -period=768h
# Whoever deploys writes the policies of workloads, so the token is as strong as these can be: keep
# it like one that may read everything below hybrid-recommender-*.

# engines of the stacks: KV, PKI (sudo: removing its root), transit
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/hybrid-recommender-*" { capabilities = ["create", "read", "update", "delete"] }
path "hybrid-recommender-*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"]
}

# logins of the sites' workloads
path "sys/auth" { capabilities = ["read"] }
path "sys/auth/hybrid-recommender-*" { capabilities = ["create", "update", "delete", "sudo"] }
path "auth/hybrid-recommender-*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/policy/hybrid-recommender-*" { capabilities = ["create", "read", "update", "delete"] }
path "sys/policies/acl/hybrid-recommender-*" { capabilities = ["read"] }
path "sys/policy/hybrid-recommender-deployer" { capabilities = ["deny"] }

# who logged in there, removed with the login
path "identity/entity-alias/id" { capabilities = ["list"] }
path "identity/entity/id/+" { capabilities = ["delete"] }

# the stack's own log of every request
path "sys/audit" { capabilities = ["read", "sudo"] }
path "sys/audit/hybrid-recommender-*" { capabilities = ["create", "update", "delete", "sudo"] }
