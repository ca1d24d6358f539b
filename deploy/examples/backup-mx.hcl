# A backup MX: takes mail for domains whose mailboxes are elsewhere while their
# own servers are away, and passes it on to those that are preferred in the DNS.
# Only for recipients it knows: mail that the primary would refuse has to be
# refused here, too, or it comes back to people who never wrote it.
#
#   example.org.  MX 10 mail.example.org.
#   example.org.  MX 20 backup.example.com.
hostname = "backup.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

# The recipients. Where the primary's directory can be asked from here, a
# directory "ldap" in its place needs no copy.
directory "ldif" "relay_recipients" {
  file       = "/etc/postern/relay_recipients.ldif"
  base       = "dc=example,dc=org"
  user_base  = "{base}"
  group_base = "{base}"
}

gateway {
  listener "mx" { bind = [":25"] }

  domains "relay" {
    names      = ["example.org"]
    recipients = directory.relay_recipients
    # deliver  = target.primary   # in place of the MX records
  }

  # Reached from outside under this address, where a translator is in front.
  # proxy_interfaces = ["192.0.2.25"]

  queue { maximal_queue_lifetime = "14d" }
}
