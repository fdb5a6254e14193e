-- The step language of steps.go, for ngx_http_lua.
local args = ngx.req.get_uri_args()
local event = "data: 0123456789abcdef\n\n"
local results = {}

local function result(ok, err)
    results[#results + 1] = ok and "ok" or err
end

local function park()
    local host, port = args.ctl:match("^(.*):(%d+)$")
    local sock = ngx.socket.tcp()
    sock:settimeout(60000)
    assert(sock:connect(host, tonumber(port)))
    assert(sock:send("GET /park?run=" .. args.run .. "&res=" .. ngx.escape_uri(table.concat(results, ","))
        .. " HTTP/1.0\r\nHost: " .. args.ctl .. "\r\n\r\n"))
    local line = sock:receive("*l")
    sock:close()
    return line and line:find(" 200 ", 1, true)
end

local function emit(n, text, wait)
    local ok, err = true, nil
    for _ = 1, n do
        ok, err = ngx.print(text)
        if ok then
            ok, err = ngx.flush(wait)
        end
        if not ok then
            break
        end
    end
    result(ok, err)
end

local ops = {
    w = function(arg) ngx.print(arg) end,
    n = function(arg) ngx.print(arg, "\n") end,
    z = function() ngx.print("") end,
    x = function(arg) ngx.print(("x"):rep(tonumber(arg))) end,
    f = function() result(ngx.flush(true)) end,
    a = function() result(ngx.flush()) end,
    s = function(arg) ngx.status = tonumber(arg) end,
    h = function(arg)
        local k, v = arg:match("^(.-)=(.*)$")
        ngx.header[k] = v
    end,
    H = function() result(ngx.send_headers()) end,
    eof = function() ngx.eof() end,
    l = function(arg)
        local n, size = arg:match("^(%d+):(%d+)$")
        emit(tonumber(n), ("x"):rep(tonumber(size)), true)
    end,
    ef = function(arg) emit(tonumber(arg), event, true) end,
    ea = function(arg) emit(tonumber(arg), event, false) end,
}

for op in args.s:gmatch("[^,]+") do
    local name, arg = op:match("^(%w+):?(.*)$")
    if name == "p" then
        if not park() then
            return
        end
    else
        ops[name](arg)
    end
end
