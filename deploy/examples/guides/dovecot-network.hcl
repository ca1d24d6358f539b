# Dovecot on another machine takes the mail by LMTP over the network, with TLS.
# Dovecot's side: protocols = ... lmtp, and
#
#   service lmtp {
#     inet_listener lmtp {
#       port = 24
#     }
#   }
#
# On the same machine, by the socket: ../dovecot-backend.hcl.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" {
    bind = [":25"]
  }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.people
    deliver    = target.dovecot
  }

  # mailbox_transport = lmtp:inet:<dovecot_host>:<port>
  target "lmtp" "dovecot" {
    address = ["dovecot.example.com:24"]
    tls     = "verify"
    ca_file = "/etc/postern/dovecot-ca.pem"
  }
}
