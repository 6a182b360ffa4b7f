"""Keys and certificates of one cluster, signed by an authority that is made for it and goes with it."""

from machine import run

DAYS = "2"


class Authority:
    """Writes NAME.key and NAME.crt into its folder."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate = folder / "authority.crt"
        self.key("authority")
        run("openssl", "req", "-x509", "-new", "-key", folder / "authority.key", "-subj", "/CN=authority", "-days", DAYS, "-out", self.certificate)

    def key(self, name):
        file = self.folder / f"{name}.key"
        run("openssl", "genrsa", "-out", file, "2048")
        file.chmod(0o600)

    def issue(self, name, common_name, addresses, organization=None):
        """A key and a certificate for servers at these addresses, and for clients of this name and group."""
        self.key(name)
        subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        lines = ["extendedKeyUsage=serverAuth,clientAuth"]
        if addresses:
            lines.append("subjectAltName=" + ",".join(f"IP:{address}" for address in addresses))
        extensions.write_text("\n".join(lines) + "\n")
        run("openssl", "req", "-new", "-key", self.folder / f"{name}.key", "-subj", subject, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self.folder / "authority.key", "-CAcreateserial")
        run("openssl", "x509", "-req", "-in", request, *signer, "-days", DAYS, "-extfile", extensions, "-out", self.folder / f"{name}.crt")
