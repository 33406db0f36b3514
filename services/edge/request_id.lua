-- A request id that logs cannot take as it is (64 letters, digits, ".", "_" or "-") is made one, here,
-- so that the edge's log and the services' name the request alike.

function envoy_on_request(request)
  local id = request:headers():get("x-request-id") or ""
  local plain = id:gsub("[^%w._-]", "-"):sub(1, 64)
  if plain ~= id then
    request:headers():replace("x-request-id", plain)
  end
end
