%% SPDX-License-Identifier: Apache-2.0

%% @private Sends clients that came without TLS to the same place with it; a Cowboy stream handler.
%%
%% 308 for every method: permanent, and unlike 301 it lets no client turn a POST into a GET. Whoever
%% speaks TLS 1.2 knows it.
-module(hornbeam_redirect).

-behaviour(cowboy_stream).

%% API
-export([location/2]).

%% cowboy_stream
-export([init/3]).
-export([data/4]).
-export([info/3]).
-export([terminate/3]).
-export([early_error/5]).

-define(HTTPS_PORT, 443).

%% @doc The URL of a request with TLS, on that port; none where it names no host that could be one.
-spec location(cowboy_req:req(), inet:port_number()) -> {ok, binary()} | error.
location(#{host := Host, path := <<"/", _/binary>> = Path, qs := Query}, Port) ->
    %% What is no name and no address is not repeated, whatever a browser would make of it.
    case re:run(Host, "\\A(?:[A-Za-z0-9_.-]+|\\[[0-9A-Fa-f:.]+\\])\\z") of
        {match, _} -> {ok, iolist_to_binary(["https://", Host, port(Port), target(Path, Query)])};
        nomatch -> error
    end;
location(_, _) ->
    error.

-spec init(cowboy_stream:streamid(), cowboy_req:req(), cowboy:opts()) ->
    {cowboy_stream:commands(), hornbeam_connection:context()}.
init(_StreamId, Req = #{method := Method}, Opts) ->
    #{hornbeam := Server, hornbeam_connection := Connection, hornbeam_redirect := Port} = Opts,
    hornbeam_connection:stream_began(Connection),
    {response, Status, Headers, Body} =
        %% What `http_version' leaves out is left out behind TLS.
        case hornbeam_scope:check(Req, Server#{http_version := ['HTTP/1.1', 'HTTP/2']}) of
            ok -> answer(location(Req, Port), Server);
            {refuse, {Refusal, Why}} -> hornbeam_response:error(Refusal, Why, Server)
        end,
    {[hornbeam_response:whole(Status, closing(Req, Headers), Body, Method), stop], Connection}.

-spec data(cowboy_stream:streamid(), cowboy_stream:fin(), binary(), State) ->
    {cowboy_stream:commands(), State} when State :: hornbeam_connection:context().
data(_StreamId, _IsFin, _Data, State) ->
    {[], State}.

-spec info(cowboy_stream:streamid(), term(), State) -> {cowboy_stream:commands(), State}
    when State :: hornbeam_connection:context().
info(_StreamId, _Message, State) ->
    {[], State}.

-spec terminate(cowboy_stream:streamid(), cowboy_stream:reason(),
                hornbeam_connection:context()) -> ok.
terminate(_StreamId, _Reason, Connection) ->
    hornbeam_connection:stream_ended(Connection).

-spec early_error(cowboy_stream:streamid(), cowboy_stream:reason(), cowboy_stream:partial_req(),
                  Response, cowboy:opts()) -> Response
    when Response :: cowboy_stream:resp_command().
early_error(_StreamId, _Reason, _PartialReq, {response, Status, Headers, _}, Opts) ->
    #{hornbeam := Server} = Opts,
    {response, _, Defaults, Body} =
        hornbeam_response:error(Status, <<"the request could not be read">>, Server),
    {response, Status, maps:merge(Defaults, maps:remove(<<"content-length">>, Headers)), Body}.

%% Internal.

%% The client has no reason to stay, and the body of its request is not wanted.
closing(#{version := 'HTTP/2'}, Headers) -> Headers;
closing(_, Headers) -> Headers#{<<"connection">> => <<"close">>}.

answer({ok, Location}, Server) ->
    {response, _, Headers, Body} =
        hornbeam_response:error(308, <<"this is at an https URL">>, Server),
    {response, 308, Headers#{<<"location">> => Location}, Body};
answer(error, Server) ->
    hornbeam_response:error(400, <<"the request names no host to go to">>, Server).

port(?HTTPS_PORT) -> "";
port(Port) -> [$:, integer_to_list(Port)].

target(Path, <<>>) -> quote(Path);
target(Path, Query) -> [quote(Path), $?, quote(Query)].

%% As sent, but for what may stand in no URL. hornbeam_scope has refused control characters.
quote(Text) ->
    << <<(quoted(Byte))/binary>> || <<Byte>> <= Text >>.

quoted(Byte) when Byte =< $\s; Byte >= 127; Byte =:= $"; Byte =:= $<; Byte =:= $>; Byte =:= $\\ ->
    <<$%, (binary:encode_hex(<<Byte>>))/binary>>;
quoted(Byte) ->
    <<Byte>>.
