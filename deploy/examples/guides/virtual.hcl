# Mail for several domains: addresses without mailboxes (tables/virtual), and domains
# that go to other hosts (tables/transport).
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"

  # virtual_alias_maps = hash:/etc/postfix/virtual
  alias_files = ["/etc/postern/virtual"]
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" {
    bind = [":25"]
  }

  # mynetworks = 127.0.0.1/32, [::1]/128, 192.0.2.1/24, [2001:db8:1::1]/64
  mynetworks = ["127.0.0.1/32", "::1/128", "192.0.2.0/24", "2001:db8:1::/64"]

  # transport_maps = hash:/etc/postfix/transport
  transport_files = ["/etc/postern/transport"]

  # What tables/transport calls partner:
  target "smtp" "partner" { address = ["[mail.partner.example]:25"] }

  # mydestination and virtual_alias_domains
  domains "local" {
    names      = ["example.com", "example.org", "example.net"]
    recipients = directory.people
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imaps" { bind = [":993"] }
}
