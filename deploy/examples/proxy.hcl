# One name for mail programs before the two servers of a pair. The servers
# know the proxy by the proxy block of their backend; the secret is the same
# file on all machines.
hostname = "imap.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

# /pair for load balancers, /metrics for Prometheus.
control { metrics = "127.0.0.1:9125" }

directory "ldap" "corp" {
  preset             = "openldap"
  uris               = ["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]
  base               = "dc=example,dc=com"
  bind_dn            = "cn=mail,ou=services,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
}

authn "ldap" { directory = directory.corp }

proxy {
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }

  # Node 0 first.
  cell "main" {
    address       = ["mail1.example.com:143", "mail2.example.com:143"]
    ca_file       = "/etc/postern/tls/ca.pem"
    user          = "proxy"
    password_file = "/etc/postern/proxy.secret"
  }
}
