# One of two machines that hold the same mailboxes, and both take mail and
# clients: mail1.example.com is node 0. The other one's is pair-mail2.hcl.
#
#   postern replica keygen /etc/postern/pair.secret     on one machine
#   scp /etc/postern/pair.secret mail2.example.com:/etc/postern/
#   chown postern /etc/postern/pair.secret              on both
hostname = "mail1.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

# /readyz and /pair for load balancers, /metrics for Prometheus.
control { metrics = "127.0.0.1:9125" }

directory "ldap" "corp" {
  preset             = "openldap"
  uris               = ["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]
  base               = "dc=example,dc=com"
  bind_dn            = "cn=mail,ou=services,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
}

authn "ldap" { directory = directory.corp }

gateway {
  listener "mx" { bind = [":25"] }
  listener "submission" { bind = [":587"] }
  listener "submissions" { bind = [":465"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.corp
    deliver    = target.pair
  }

  # Node 0 first, on both machines.
  target "lmtp" "pair" {
    address = ["mail1.example.com:24", "mail2.example.com:24"]
    tls     = "encrypt"
  }
}

backend {
  node = 0

  # Port 24 is for the two gateways only: let the firewall say so.
  listener "lmtp" { bind = [":24"] }
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }

  replica {
    partner     = "mail2.example.com:7024"
    listen      = [":7024"]
    secret_file = "/etc/postern/pair.secret"
  }
}
