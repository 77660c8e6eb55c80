%% SPDX-License-Identifier: Apache-2.0
%% @private The options one by one: what each accepts and what it becomes. Pure, except that
%% names in `bind' are resolved.
%%
%% `check/2' has one clause for each option and reads as the reference of what is legal. Text is
%% accepted as a string or as UTF-8 in a binary, and always becomes a binary. Defaults live in
%% {@link hornbeam_config}.
-module(hornbeam_option).

-export([check/2]).
-export([check_app/1]).
-export([check_together/1]).

-type key() :: term().
%% What the user wrote as a key: an option's name, or a mistake.

-type result() :: hornbeam_form:result(term()).

-export_type([key/0]).

%% API.

%% @doc Checks one option and brings its value into the form that the server works with.
-spec check(key(), term()) -> result().
check(bind, Value) -> check_bind(Value);
check(socket_mode, Value) -> hornbeam_form:optional(Value, fun check_socket_mode/1);
check(worker_class, Value) -> hornbeam_form:one_of(Value, [asgi, wsgi, auto]);
check(workers, Value) -> hornbeam_form:integer(Value, 1, 1024);
check(threads, Value) -> hornbeam_form:integer(Value, 1, 1024);
check(loop, Value) -> hornbeam_form:one_of(Value, [auto, uvloop, asyncio, trio]);
check(python, Value) -> hornbeam_form:path(Value);
check(venv, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:path/1);
check(pythonpath, Value) -> check_paths(Value);
check(chdir, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:path/1);
check(env, Value) -> check_env(Value);
check(lifespan, Value) -> hornbeam_form:one_of(Value, [auto, on, off]);
check(lifespan_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(root_path, Value) -> check_root_path(Value);
check(timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(keepalive, Value) -> hornbeam_form:time_or_infinity(Value);
check(header_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(body_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(send_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(shutdown_timeout, Value) -> hornbeam_form:time(Value);
check(max_body, Value) -> hornbeam_form:integer_or_infinity(Value, 0);
check(max_request_line_size, Value) -> hornbeam_form:integer(Value, 64, 1048576);
check(max_header_size, Value) -> hornbeam_form:integer(Value, 64, 1048576);
check(max_headers, Value) -> hornbeam_form:integer(Value, 1, 10000);
check(max_connections, Value) -> hornbeam_form:integer_or_infinity(Value, 1);
check(max_concurrency, auto) -> {ok, auto};
check(max_concurrency, Value) -> hornbeam_form:integer(Value, 1, 1000000);
check(max_queue, Value) -> hornbeam_form:integer(Value, 0, 1000000);
check(queue_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(max_requests, Value) -> hornbeam_form:integer_or_infinity(Value, 1);
check(max_requests_jitter, Value) -> hornbeam_form:integer(Value, 0, 1000000000);
check(max_memory, Value) -> hornbeam_form:integer_or_infinity(Value, 1048576);
check(heartbeat, Value) -> hornbeam_form:integer(Value, 10, 60000);
check(stall_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(window, Value) -> hornbeam_form:integer(Value, 4096, 16777216);
check(retry, Value) -> hornbeam_form:boolean(Value);
check(reload, Value) -> check_reload(Value);
check(http_version, Value) -> check_http_version(Value);
check(ssl, Value) -> hornbeam_form:boolean(Value);
check(certfile, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:path/1);
check(keyfile, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:path/1);
check(cacertfile, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:path/1);
check(password, Value) -> hornbeam_form:optional(Value, fun hornbeam_form:any_text/1);
check(verify, Value) -> hornbeam_form:one_of(Value, [verify_none, verify_peer]);
check(sni, Value) -> check_sni(Value);
check(ssl_redirect, Value) -> check_ssl_redirect(Value);
check(websocket_timeout, Value) -> hornbeam_form:time_or_infinity(Value);
check(websocket_ping, Value) -> hornbeam_form:time_or_infinity(Value);
check(websocket_max_frame_size, Value) -> hornbeam_form:integer_or_infinity(Value, 1);
check(websocket_compress, Value) -> hornbeam_form:boolean(Value);
check(websocket_drain, Value) -> hornbeam_form:one_of(Value, [close, keep]);
check(proxy_headers, Value) -> check_proxy_headers(Value);
check(proxy_protocol, Value) -> hornbeam_form:boolean(Value);
check(access_log, Value) -> check_access_log(Value);
check(server_header, Value) -> check_server_header(Value);
check(date_header, Value) -> hornbeam_form:boolean(Value);
check(routes, Value) -> hornbeam_form:any_list(Value);
check(hooks, Value) -> check_hooks(Value);
check(mounts, Value) -> hornbeam_form:any_list(Value);
check(status_path, Value) -> hornbeam_form:off_or(Value, fun hornbeam_form:url_path/1);
check(metrics_path, Value) -> hornbeam_form:off_or(Value, fun hornbeam_form:url_path/1);
check(state_max_memory, Value) -> hornbeam_form:integer_or_infinity(Value, 1);
check(reload_on_sighup, Value) -> hornbeam_form:boolean(Value);
check(rpc_allow, Value) -> check_rpc_allow(Value);
check(_, _) -> {error, "a known option"}.

%% @doc Checks the form of `"module:attribute"'; both halves may be dotted.
-spec check_app(term()) -> result().
check_app(Value) ->
    Expected = "\"module\" or \"module:attribute\", like \"app:app\"",
    Name = "[^\\W\\d]\\w*(?:\\.[^\\W\\d]\\w*)*",
    Pattern = ["\\A", Name, "(?::", Name, ")?\\z"],
    hornbeam_form:matching(Value, Pattern, Expected).

%% @doc The rules that need more than one option. Takes options that passed `check/2'.
-spec check_together(#{atom() => term()}) -> [{key(), term(), hornbeam_form:expected()}].
check_together(Options) ->
    lists:flatmap(fun(Rule) -> Rule(Options) end, [
        fun check_interpreter/1,
        fun check_heartbeat/1,
        fun check_jitter/1,
        fun check_certificate/1
    ]).

%% Options with a form of their own.

check_bind(Value) ->
    case hornbeam_form:texts(Value) of
        {ok, [_ | _] = Texts} -> check_binds(Texts, []);
        _ -> {error, "an address like \"127.0.0.1:8000\" or \"unix:/path\", or a list of them"}
    end.

check_binds([], Addresses) ->
    {ok, lists:reverse(Addresses)};
check_binds([Text | Texts], Addresses) ->
    case hornbeam_bind:read(Text) of
        {ok, Address} ->
            case is_taken(Address, Addresses) of
                false -> check_binds(Texts, [Address | Addresses]);
                true -> {error, ["every address once; ", Text, " comes again"]}
            end;
        {error, Expected} ->
            {error, [Expected, " in place of \"", Text, "\""]}
    end.

check_socket_mode(Value) ->
    case hornbeam_form:integer(Value, 0, 8#777) of
        {ok, Mode} -> {ok, Mode};
        {error, _} -> {error, "permissions like 8#660, up to 8#777"}
    end.

%% Two listeners on port 0 get a port each.
is_taken(#{port := 0}, _) -> false;
is_taken(Address, Addresses) ->
    Taken = [maps:remove(text, Other) || Other <- Addresses],
    lists:member(maps:remove(text, Address), Taken).

check_rpc_allow(all) ->
    {ok, all};
check_rpc_allow(Value) ->
    Expected = "all, or a list of {Module, Function} and {Module, '_'}",
    IsAllowed = fun
        ({Module, Function}) -> is_atom(Module) andalso is_atom(Function);
        (_) -> false
    end,
    case hornbeam_form:any_list(Value) of
        {ok, List} ->
            case lists:all(IsAllowed, List) of
                true -> {ok, List};
                false -> {error, Expected}
            end;
        {error, _} ->
            {error, Expected}
    end.

check_paths(Value) ->
    Path = fun hornbeam_form:path/1,
    case hornbeam_form:texts(Value) of
        {ok, Texts} -> hornbeam_form:each(Texts, Path, "a list of directories");
        error -> {error, "a list of directories"}
    end.

check_root_path(Value) ->
    case hornbeam_form:any_text(Value) of
        {ok, <<>>} -> {ok, <<>>};
        {ok, <<"/", _/binary>> = Path} -> {ok, string:trim(Path, trailing, "/")};
        _ -> {error, "\"\" or a path that begins with /"}
    end.

check_env(Value) when is_map(Value) ->
    check_env(maps:to_list(Value), #{});
check_env(Value) when is_list(Value) ->
    check_env(Value, #{});
check_env(_) ->
    {error, "a map, or a list of {Name, Value}"}.

check_env([], Env) ->
    {ok, Env};
check_env([{Name, Value} | Rest], Env) ->
    case {variable_name(Name), variable_value(Value)} of
        {{ok, NameText}, {ok, ValueText}} -> check_env(Rest, Env#{NameText => ValueText});
        {{ok, NameText}, _} -> {error, ["text or false as the value of ", NameText]};
        {_, _} -> {error, ["names without = that are text, not ", io_lib:format("~0tp", [Name])]}
    end;
check_env(_, _) ->
    {error, "a map, or a list of {Name, Value}"}.

variable_name(Name) ->
    hornbeam_form:matching(Name, "\\A[^=]+\\z", "a name without =").

%% `false' takes a variable of the node's away from the workers.
variable_value(false) -> {ok, false};
variable_value(Value) -> hornbeam_form:any_text(Value).

check_reload(false) ->
    {ok, false};
check_reload(true) ->
    check_reload(#{});
check_reload(Given) when is_map(Given) ->
    Defaults = #{dirs => undefined, include => [], exclude => []},
    Checked = maps:map(fun check_reload/2, maps:merge(Defaults, Given)),
    case [Expected || {_, {error, Expected}} <- lists:sort(maps:to_list(Checked))] of
        [] -> {ok, maps:map(fun(_, {ok, Value}) -> Value end, Checked)};
        [Expected | _] -> {error, ["true, false, or a map with ", Expected]}
    end;
check_reload(_) ->
    {error, "true, false, or a map with dirs, include and exclude"}.

check_reload(dirs, Value) ->
    case hornbeam_form:optional(Value, fun check_paths/1) of
        {ok, [_ | _]} = Ok -> Ok;
        {ok, undefined} = Ok -> Ok;
        _ -> {error, "a list of directories as dirs"}
    end;
check_reload(Key, Value) when Key =:= include; Key =:= exclude ->
    Expected = io_lib:format("a list of patterns like \"*.html\" as ~ts", [Key]),
    case hornbeam_form:texts(Value) of
        {ok, Texts} -> hornbeam_form:each(Texts, fun hornbeam_form:path/1, Expected);
        error -> {error, Expected}
    end;
check_reload(_, _) ->
    {error, "no other keys than dirs, include and exclude"}.

check_http_version(Value) ->
    Versions = ['HTTP/1.1', 'HTTP/2'],
    Expected = "a list of 'HTTP/1.1', 'HTTP/2' or both",
    Version = fun(Each) -> hornbeam_form:one_of(Each, Versions) end,
    case hornbeam_form:each(Value, Version, Expected) of
        {ok, [_ | _] = Given} -> {ok, lists:usort(Given)};
        _ -> {error, Expected}
    end.

check_sni(Value) ->
    Expected = "a list of {Host, #{certfile => Path, keyfile => Path}}",
    case hornbeam_form:each(Value, fun check_sni_host/1, Expected) of
        {ok, Hosts} -> check_sni_once(Hosts);
        {error, _} = Error -> Error
    end.

check_sni_once(Hosts) ->
    Names = [Name || {Name, _} <- Hosts],
    case Names -- lists:usort(Names) of
        [] -> {ok, Hosts};
        [Name | _] -> {error, ["every host once; ", Name, " comes again"]}
    end.

check_sni_host({Host, #{certfile := _} = Given}) ->
    Options = maps:merge(#{keyfile => undefined, password => undefined}, Given),
    Checked = maps:map(fun check_sni_option/2, Options),
    Wrong = [error || {_, {error, _}} <- maps:to_list(Checked)],
    case {check_sni_name(Host), Wrong} of
        {{ok, Name}, []} -> {ok, {Name, maps:map(fun(_, {ok, Value}) -> Value end, Checked)}};
        {_, _} -> {error, "a host with its files"}
    end;
check_sni_host(_) ->
    {error, "{Host, Options}"}.

check_sni_option(certfile, Value) -> hornbeam_form:path(Value);
check_sni_option(Key, Value) when Key =:= keyfile; Key =:= password -> check(Key, Value);
check_sni_option(_, _) -> {error, "certfile, keyfile or password"}.

%% Names in a handshake are ASCII (RFC 6066 3).
check_sni_name(Host) ->
    Label = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})",
    Pattern = ["\\A(?:\\*\\.)?", Label, "(?:\\.", Label, ")*\\z"],
    case hornbeam_form:matching(Host, Pattern, "a host name") of
        {ok, Name} -> {ok, string:lowercase(Name)};
        {error, _} = Error -> Error
    end.

check_ssl_redirect(off) ->
    {ok, off};
check_ssl_redirect({Bind, Port}) when is_integer(Port), Port >= 1, Port =< 65535 ->
    check_ssl_redirect(Bind, Port);
check_ssl_redirect(Bind) when not is_tuple(Bind) ->
    check_ssl_redirect(Bind, bound);
check_ssl_redirect(_) ->
    {error, "off, an address, a list of addresses, or {Addresses, Port}, a port from 1 to 65535"}.

check_ssl_redirect(Bind, Port) ->
    case check_bind(Bind) of
        {ok, Addresses} -> {ok, {Addresses, Port}};
        {error, Expected} -> {error, ["off, or ", Expected]}
    end.

check_proxy_headers(off) ->
    {ok, off};
check_proxy_headers(unix) ->
    {ok, [unix]};
check_proxy_headers(Value) ->
    Expected = "off, or a list of trusted addresses, networks like \"10.0.0.0/8\" and \"unix\"",
    case hornbeam_form:texts(proxy_texts(Value)) of
        {ok, [_ | _] = Texts} -> hornbeam_form:each(Texts, fun trusted/1, Expected);
        _ -> {error, Expected}
    end.

%% `unix' may be an atom, also beside texts.
proxy_texts([unix | Rest]) -> ["unix" | proxy_texts(Rest)];
proxy_texts([Text | Rest]) -> [Text | proxy_texts(Rest)];
proxy_texts(Value) -> Value.

trusted(<<"unix">>) ->
    {ok, unix};
trusted(Text) ->
    case hornbeam_ip:parse_network(Text) of
        {ok, Network} -> {ok, Network};
        error -> {error, "a network"}
    end.

check_access_log({Format, File}) ->
    case {hornbeam_form:one_of(Format, [common, combined, json]), hornbeam_form:path(File)} of
        {{ok, _}, {ok, Path}} -> {ok, {Format, Path}};
        {_, _} -> check_access_log(invalid)
    end;
check_access_log(Value) when Value =:= off; Value =:= common; Value =:= combined; Value =:= json ->
    {ok, Value};
check_access_log(_) ->
    {error, "off, common, combined, json, or {Format, File}"}.

check_server_header(false) ->
    {ok, <<>>};
check_server_header(Value) ->
    Expected = "printable ASCII text, or false for none",
    hornbeam_form:matching(Value, "\\A[ -~]*\\z", Expected).

check_hooks(Value) when is_map(Value) ->
    Names = [on_request, on_response, on_error, on_worker_start, on_worker_exit],
    case maps:keys(Value) -- Names of
        [] -> check_hook_functions(Value);
        [_ | _] -> {error, io_lib:format("a map with keys of ~0tp", [Names])}
    end;
check_hooks(_) ->
    {error, "a map of functions"}.

check_hook_functions(Hooks) ->
    case lists:all(fun is_function/1, maps:values(Hooks)) of
        true -> {ok, Hooks};
        false -> {error, "a map of functions"}
    end.

%% Rules across options.

check_interpreter(#{venv := Venv, python := Python}) when is_binary(Venv) ->
    case binary:match(Python, <<"/">>) of
        nomatch -> [];
        _ -> [{python, Python, "the name of a command in the bin folder of venv, not a path"}]
    end;
check_interpreter(_) ->
    [].

%% A worker counts as blocked after two missed beats; killing it earlier would kill healthy ones.
check_heartbeat(#{heartbeat := Heartbeat, stall_timeout := Stall}) when Stall < 2 * Heartbeat ->
    [{stall_timeout, Stall, "at least twice the heartbeat"}];
check_heartbeat(_) ->
    [].

check_jitter(#{max_requests := infinity, max_requests_jitter := Jitter}) when Jitter > 0 ->
    [{max_requests_jitter, Jitter, "max_requests beside it"}];
check_jitter(_) ->
    [].

check_certificate(#{ssl := true, certfile := undefined}) ->
    [{certfile, undefined, "the path of a certificate, because ssl is true"}];
check_certificate(#{ssl := false} = Options) ->
    Unset = #{certfile => undefined, keyfile => undefined, cacertfile => undefined,
              password => undefined, verify => verify_none, sni => [], ssl_redirect => off},
    [{Key, Value, "ssl => true beside it"}
     || {Key, Default} <- maps:to_list(Unset), {ok, Value} <- [maps:find(Key, Options)],
        Value =/= Default];
check_certificate(Options) ->
    check_clients(Options) ++ check_redirect(Options).

%% Whoever names authorities and has no client checked is mistaken in one of both.
check_clients(#{verify := verify_peer, cacertfile := undefined}) ->
    [{cacertfile, undefined, "the path of CA certificates, because verify is verify_peer"}];
check_clients(#{verify := verify_none, cacertfile := File}) when File =/= undefined ->
    [{verify, verify_none, "verify_peer, because cacertfile is set, which is for clients' "
      "certificates; those that sign the server's own belong into certfile"}];
check_clients(_) ->
    [].

check_redirect(#{ssl_redirect := {Addresses, Port}, bind := Bind}) ->
    Ports = [Bound || #{port := Bound} <- Bind],
    case [Text || #{text := Text} = Address <- Addresses, is_taken(Address, Bind)] of
        [Text | _] -> [{ssl_redirect, Text, "an address that is not in bind"}];
        [] when Port =:= bound, Ports =:= [] ->
            [{ssl_redirect, bound, "{Addresses, Port}, because bind has no port to lead to"}];
        [] -> []
    end;
check_redirect(_) ->
    [].
