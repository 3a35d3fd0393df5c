"""The gateway's HAProxy configuration as text. No engine here.

A request that reached no answer is tried on another pod: every endpoint may be repeated (events
carry ids that the store knows again), so losing a pod costs a shopper some milliseconds.
"""

from __future__ import annotations

TLS_PORT = 8443
STATUS_PORT = 8404
ADMIN = "/run/haproxy/admin.sock"
BODY_LIMIT = 2 * 2**20  # bytes; the service's own limit is lower and tells the field at fault
PATHS = ("/recommend", "/search", "/events", "/model", "/openapi.json", "/docs.json", "/readyz")


def configuration(*, backend: str, port: int, slots: int) -> str:
    """`haproxy.cfg` for the pods that the headless name `backend` resolves to, at most `slots`."""
    allowed = " ".join(PATHS)
    return f"""\
global
  log stdout format raw local0 notice
  stats socket {ADMIN} mode 600 level admin expose-fd listeners
  maxconn 4000
  hard-stop-after 25s
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
  ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
  # a request up to this size is kept until it is answered, so that it can be sent again
  tune.bufsize 65536
  tune.ssl.default-dh-param 2048

defaults
  mode http
  log global
  timeout http-request 10s
  timeout client 30s
  timeout http-keep-alive 30s
  timeout connect 500ms
  timeout queue 2s
  timeout check 3s
  timeout server 5s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout junk-response 502 503
  # only what came in whole can be sent again: many clients send head and body apart
  option http-buffer-request
  option http-keep-alive
  http-reuse safe
  errorfile 503 /vault-agent/503.http

resolvers cluster
  parse-resolv-conf
  resolve_retries 2
  timeout resolve 1s
  timeout retry 500ms
  accepted_payload_size 8192
  hold valid 1s
  # a name service that restarts must not empty the list of pods
  hold other 60s
  hold refused 60s
  hold timeout 60s
  hold nx 10s
  hold obsolete 2s

frontend shoppers
  bind :{TLS_PORT} ssl crt /secrets/tls.pem alpn h2,http/1.1
  http-request deny deny_status 413 if {{ req.body_size gt {BODY_LIMIT} }}
  http-request deny deny_status 404 if !{{ path / }} !{{ path {allowed} }}
  http-request del-header X-Forwarded-For
  http-request set-header X-Forwarded-Proto https
  http-response set-header Strict-Transport-Security "max-age=31536000"
  default_backend bento

backend bento
  balance leastconn
  # a pod that went silent is known within 2.5 s: the entrance repeats a request after 3
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host {backend}
  http-check expect status 200
  default-server check inter 1s fastinter 300ms downinter 1s fall 2 rise 1 on-error fastinter observe layer7 error-limit 20 slowstart 3s resolvers cluster resolve-prefer ipv4 init-addr none
  server-template pod {slots} {backend}:{port}

frontend status
  bind :{STATUS_PORT}
  option dontlog-normal
  http-request use-service prometheus-exporter if {{ path /metrics }}
  http-request return status 200 content-type text/plain string "ok" if {{ path /livez }}
  http-request return status 200 content-type text/plain string "ok" if {{ path /readyz }} {{ nbsrv(bento) ge 1 }}
  http-request return status 503 content-type text/plain string "no pod of the service answers" if {{ path /readyz }}
  http-request deny deny_status 404
"""  # noqa: E501 - HAProxy's lines do not wrap


NO_POD = """\
HTTP/1.1 503 Service Unavailable\r
Content-Type: application/json\r
Cache-Control: no-store\r
Retry-After: 1\r
Content-Length: 112\r
\r
"""


def error_page() -> str:
    """What shoppers get while no pod answers: the service's own shape of an error."""
    body = (
        '{"error":"unavailable","message":"no replica of the service answers","fields":[],'
        '"request_id":""}'
    )
    head = NO_POD.replace("Content-Length: 112", f"Content-Length: {len(body)}")
    return head + body
