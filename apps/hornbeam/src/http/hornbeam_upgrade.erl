%% SPDX-License-Identifier: Apache-2.0

%% @private Where a connection, or a stream of it, becomes something else.
%%
%% <ul>
%% <li>To HTTP/2, with `Upgrade: h2c': the request came by HTTP/1.1, its answer goes by HTTP/2, and
%%   so does what follows. Cowboy does that, for whatever request asks for it; one that is not to
%%   change is taken from it.</li>
%% <li>To {@link hornbeam_takeover}: HTTP/1 with a chunked body or a WebSocket.</li>
%% <li>To a session of {@link hornbeam_websocket}: a handshake that was accepted.</li>
%% </ul>
-module(hornbeam_upgrade).

%% API
-export([to_http2/2]).
-export([answer_here/4]).
-export([hand_over/4]).
-export([accept/5]).

-type request() :: hornbeam_request:request().

%% @doc Whether a request may take its connection to HTTP/2. `ignore': it is answered by HTTP/1.1.
%%
%% Cowboy is about to change to HTTP/2 and asks before it says so to the client. A request that is
%% not to change is the last of its connection. So is one with a body, which Cowboy would take for the
%% preface; what is there of it can't be had.
-spec to_http2(hornbeam_request:incoming(), request()) ->
    ok | ignore | {refuse, Status :: 400..599, Why :: binary()}.
to_http2(Req = #{has_body := HasBody}, #{server := Server}) ->
    %% A response that is still due would never come.
    _ = hornbeam_pipeline:is_busy() andalso hornbeam_connection:abandon(),
    #{http_version := Versions} = Server,
    case hornbeam_scope:check(Req, Server) of
        {refuse, {Status, Why}} ->
            {refuse, Status, Why};
        ok when HasBody ->
            {refuse, 400, <<"a request with a body can not change the protocol">>};
        ok ->
            case lists:member('HTTP/2', Versions) of
                true -> ok;
                false -> ignore
            end
    end.

%% @doc Answer such a request, and end the connection after it. The stream, and what it has said.
-spec answer_here(hornbeam_request:incoming(), cowboy:opts(), request(),
                  {cowboy_stream:commands(), hornbeam_stream:state()}) -> no_return().
answer_here(Req = #{ref := Ref}, Opts, Request, {Commands, State}) ->
    #{stream_id := StreamId, method := Method, connection := Connection} = Request,
    #{socket := Socket, transport := Transport} = Connection,
    Start = #{stream_id => StreamId, stream => State, method => Method,
              takes_trailers => hornbeam_scope:takes_trailers(Req),
              kind => bodiless, commands => Commands},
    [Parent | _] = get('$ancestors'),
    hornbeam_takeover:takeover(Parent, Ref, Socket, Transport, Opts, <<>>, Start).

%% @doc What has the connection taken over by that stream.
-spec hand_over(chunked | websocket, TakesTrailers :: boolean(), request(),
                hornbeam_stream:state()) -> cowboy_stream:commands().
hand_over(Kind, TakesTrailers, #{stream_id := StreamId, method := Method}, State) ->
    %% There is only this stream now.
    ok = hornbeam_pipeline:leave(),
    %% Copied, or it would keep the 16 KiB that it was read with for as long as a WebSocket is open.
    Start = #{stream_id => StreamId, stream => State, kind => Kind,
              method => binary:copy(Method), takes_trailers => TakesTrailers},
    [{switch_protocol, #{}, hornbeam_takeover, Start}].

%% @doc The application has accepted a handshake: it goes on as a session.
-spec accept({Subprotocol :: binary() | undefined, cowboy:http_headers()},
             hornbeam_ws_handshake:handshake(), request(), hornbeam_dispatch:dispatch(),
             hornbeam_request_body:body()) ->
    {cowboy_stream:commands(), hornbeam_websocket:session()}.
accept({Subprotocol, Headers}, Handshake, Request, Dispatch, Body) ->
    #{server := Server, connection := Connection} = Request,
    {Flow, Early} = hornbeam_request_body:to_session(Body),
    Start = #{key => hornbeam_request:key(Request),
              request_id => hornbeam_dispatch:request_id(Dispatch),
              worker => hornbeam_dispatch:worker(Dispatch),
              connection => Connection, handshake => Handshake, flow => Flow, early => Early},
    hornbeam_websocket:accept(Subprotocol, Headers, Start, Server).
