// The profile of a Thunderbird that a test drives: one account, on the test's
// ports, and none of what a first start shows or asks of the network.
user_pref("mail.accountmanager.accounts", "account1");
user_pref("mail.accountmanager.defaultaccount", "account1");
user_pref("mail.account.account1.server", "server1");
user_pref("mail.account.account1.identities", "id1");

user_pref("mail.server.server1.type", "imap");
user_pref("mail.server.server1.name", "{{.Login}}");
user_pref("mail.server.server1.hostname", "localhost");
user_pref("mail.server.server1.port", {{.IMAPS}});
user_pref("mail.server.server1.userName", "{{.Login}}");
user_pref("mail.server.server1.socketType", 3); // TLS from the first octet
user_pref("mail.server.server1.authMethod", 3); // a password
user_pref("mail.server.server1.check_new_mail", false); // IDLE tells of it, or nothing does
user_pref("mail.server.server1.login_at_startup", false);

user_pref("mail.identity.id1.fullName", "{{.Login}}");
user_pref("mail.identity.id1.useremail", "{{.Login}}@example.com");
user_pref("mail.identity.id1.smtpServer", "smtp1");
user_pref("mail.identity.id1.valid", true);
user_pref("mail.smtpservers", "smtp1");
user_pref("mail.smtp.defaultserver", "smtp1");
user_pref("mail.smtpserver.smtp1.hostname", "localhost");
user_pref("mail.smtpserver.smtp1.port", {{.Submission}});
user_pref("mail.smtpserver.smtp1.username", "{{.Login}}");
user_pref("mail.smtpserver.smtp1.try_ssl", 2); // STARTTLS
user_pref("mail.smtpserver.smtp1.authMethod", 3);

user_pref("marionette.port", 0); // one that is free, told in MarionetteActivePort

user_pref("app.update.auto", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.blocklist.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("mail.biff.play_sound", false);
user_pref("mail.biff.show_alert", false);
user_pref("mail.provider.suppress_dialog_on_startup", true);
user_pref("mail.rights.version", 1);
user_pref("mail.spotlight.firstRunDone", true);
user_pref("mailnews.start_page.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.enabled", false);
// What still asks the network asks a proxy that is not there.
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
