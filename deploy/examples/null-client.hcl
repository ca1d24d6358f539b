# A machine that only sends: everything goes to one relay host. Programs submit
# by "postern sendmail" (install it as /usr/sbin/sendmail) or by SMTP to this
# machine; nobody else can connect, and no mailbox is here.
hostname = "web1.example.com"
data_dir = "/var/lib/postern"

gateway {
  listener "local" { bind = ["unix:/run/postern/submit.sock"] }
  listener "mx" { bind = ["127.0.0.1:25", "[::1]:25"] }

  relay = target.relay

  # The MX of the domain. [mail.example.com]:587 would be that host and port.
  target "smtp" "relay" {
    address = ["example.com"]
    # user          = "web1"
    # password_file = "/etc/postern/relay-password"
  }
}
