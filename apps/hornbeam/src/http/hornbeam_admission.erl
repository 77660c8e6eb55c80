%% SPDX-License-Identifier: Apache-2.0

%% @private Whether a request is let in, and as what: before anything is asked of a worker.
-module(hornbeam_admission).

%% API
-export([check/3]).
-export([scope/3]).

-export_type([verdict/0]).

-type verdict() ::
    {ok, hornbeam_ws_handshake:handshake() | undefined, hornbeam_request:incoming()}
  | {refuse, Status :: 400..599, Why :: binary(), cowboy:http_headers()}
  | overloaded.
%% With what makes it a WebSocket's, and as it is to be taken.

%% @doc `Streams' are under way on its connection, this one with them.
-spec check(Streams :: pos_integer(), hornbeam_request:incoming(), hornbeam_request:request()) ->
    verdict().
check(Streams, Req, Request = #{version := 'HTTP/2', connection := Connection}) ->
    ok = hornbeam_connection:is_http2(maps:get(activity, Connection)),
    %% Cowboy does not count as long as the client has not acknowledged the settings.
    case Streams =< hornbeam_http2:max_streams() of
        true -> check_http2(Req, Request);
        false -> overloaded
    end;
check(_Streams, Req, Request = #{server := Server}) ->
    case hornbeam_scope:check(Req, Server) of
        ok -> check_kind(Req, Request);
        {refuse, {Status, Why}} -> {refuse, Status, Why, #{}}
    end.

check_http2(Req = #{headers := Headers}, Request) ->
    #{stream_id := StreamId, connection := Connection, server := Server} = Request,
    #{max_header_size := MaxHeaderSize} = Server,
    case hornbeam_scope:check(Req, Server) of
        ok ->
            #{scheme := Scheme} = Connection,
            check_kind(hornbeam_scope:settled(Req, Scheme), Request);
        {refuse, {Status, Why}} ->
            _ = hornbeam_http2:is_bomb(Headers, MaxHeaderSize) andalso
                hornbeam_connection:calm(Connection, StreamId),
            {refuse, Status, Why, #{}}
    end.

check_kind(Req, Request) ->
    case hornbeam_websocket:check(Req) of
        no_websocket ->
            {ok, undefined, Req};
        Handshake ->
            #{server := #{name := Name}} = Request,
            check_class(hornbeam_selection:worker_class(Name), Handshake, Req, Request)
    end.

%% A WSGI application has no WebSockets: it may answer without one, as it is asked by HTTP/1.
check_class(wsgi, _, Req, #{version := 'HTTP/1.1'}) ->
    {ok, undefined, Req};
check_class(wsgi, _, _Req, _Request) ->
    {refuse, 501, <<"this application has no WebSockets">>, #{}};
check_class(_, {ok, Handshake}, Req, _Request) ->
    {ok, Handshake, Req};
check_class(_, {refuse, {Status, Why, Headers}}, _Req, _Request) ->
    {refuse, Status, Why, Headers}.

%% @doc The scope of a request that was let in.
-spec scope(hornbeam_ws_handshake:handshake() | undefined, hornbeam_request:incoming(),
            hornbeam_request:request()) -> hornbeam_protocol:scope().
scope(Handshake, Req, #{connection := Connection}) ->
    #{client := Client, server := Address, via := Via, tls := Tls} = Connection,
    Plain = hornbeam_scope:with_tls(hornbeam_scope:new(Req, Client, Address), Tls),
    Scope = hornbeam_proxy:scope(Plain, Via),
    case Handshake of
        undefined -> Scope;
        _ -> hornbeam_scope:of_websocket(Scope)
    end.
