-- Who is calling: the tenant is what the client's certificate says, never what a header says.

local function tenant_of(tls)
  local names = {}
  for _, uri in ipairs(tls:uriSanPeerCertificate()) do
    names[#names + 1] = uri:match("^cytosynth://tenant/(.+)$")
  end
  local subject = tls:parsedSubjectPeerCertificate()
  names[#names + 1] = subject and subject:commonName()
  for _, name in ipairs(names) do
    if #name <= 63 and name:match("^[a-z0-9][a-z0-9-]*$") then
      return name
    end
  end
  return nil
end

function envoy_on_request(request)
  local tenant = "local"
  local tls = request:streamInfo():downstreamSslConnection()
  if tls ~= nil and tls:peerCertificatePresented() then
    tenant = tenant_of(tls)
    if tenant == nil then
      request:respond({
        [":status"] = "200",
        ["content-type"] = "application/grpc",
        ["grpc-status"] = "7",
        ["grpc-message"] = "The client certificate names no tenant: it needs the URI "
          .. "cytosynth://tenant/<id> or an id (a-z, 0-9 and -) as its common name.",
      }, "")
      return
    end
  end
  request:headers():remove("x-cytosynth-tenant")
  request:headers():add("x-cytosynth-tenant", tenant)
end

-- Says what to do about a message over the limit, which gRPC itself words for programmers.
function envoy_on_response(response)
  local message = response:headers():get("grpc-message")
  if message ~= nil and response:headers():get("grpc-status") == "8"
    and message:find("larger than max", 1, true) then
    response:headers():replace("grpc-message", "request: the message is larger than "
      .. "@MAX_MESSAGE_BYTES@ bytes; send fewer or smaller images in one message.")
  end
end
