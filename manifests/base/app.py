"""An application that knows neither TLS nor users, on loopback alone."""

import http.server
import signal
import threading


class Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        user = self.headers.get("X-Forwarded-User", "whoever you are")
        body = f"hello {user}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass  # Sidegate writes the access log


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the answers under way


server = Server(("127.0.0.1", 8080), Greeter)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
