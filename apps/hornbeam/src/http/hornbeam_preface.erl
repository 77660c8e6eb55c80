%% SPDX-License-Identifier: Apache-2.0

%% @private Keeps HTTP/2 out of a server that has only HTTP/1.1.
%%
%% Cowboy takes a connection that begins with the preface of HTTP/2 for one, whatever it is told
%% (before 2.13). Where that is not wanted, the first bytes are looked at here, and given to Cowboy
%% as if they came from the socket then.
-module(hornbeam_preface).

%% API
-export([await_http1/2]).
-export([has_begun/1]).

%% sys
-export([system_continue/3]).
-export([system_terminate/4]).
-export([system_code_change/4]).

-record(state, {
    parent :: pid(),
    context :: hornbeam_connection:context(),
    received = <<>> :: binary()
}).

-define(PREFACE, <<"PRI * HTTP/2.0\r\n">>).

%% @doc Wait for the first bytes: `http1' where Cowboy will get them, `http2' where a client
%% speaks that.
-spec await_http1(Parent :: pid(), hornbeam_connection:context()) -> http1 | http2.
await_http1(Parent, Context) ->
    await(#state{parent = Parent, context = Context}).

%% @doc Of the state in which a connection waits so: whether anything has come.
-spec has_begun(term()) -> boolean().
has_begun(#state{received = Received}) -> Received =/= <<>>;
has_begun(_) -> false.

await(State = #state{parent = Parent, context = Context, received = Received}) ->
    #{socket := Socket, transport := Transport} = Context,
    {Data, Closed, Error, _} = Transport:messages(),
    %% An error is one of the socket, of which there is a message too.
    _ = Transport:setopts(Socket, [{active, once}]),
    receive
        {Data, Socket, Bytes} -> look(State#state{received = <<Received/binary, Bytes/binary>>});
        {Closed, Socket} -> exit({shutdown, closed});
        {Error, Socket, Reason} -> exit({shutdown, Reason});
        {'EXIT', Parent, Reason} -> exit(Reason);
        {system, From, Request} -> sys:handle_system_msg(Request, From, Parent, ?MODULE, [], State)
    end.

look(State = #state{context = #{socket := Socket, transport := Transport}, received = Received}) ->
    case binary:longest_common_prefix([Received, ?PREFACE]) of
        Length when Length =:= byte_size(?PREFACE) ->
            http2;
        Length when Length =:= byte_size(Received) ->
            await(State);
        _ ->
            self() ! {element(1, Transport:messages()), Socket, Received},
            http1
    end.

%%% sys

-spec system_continue(pid(), [sys:debug_option()], #state{}) -> http1 | http2.
system_continue(_, _, State) ->
    await(State).

-spec system_terminate(term(), pid(), [sys:debug_option()], #state{}) -> no_return().
system_terminate(Reason, _, _, _) ->
    exit({shutdown, Reason}).

-spec system_code_change(#state{}, module(), term(), term()) -> {ok, #state{}}.
system_code_change(State, _, _, _) ->
    {ok, State}.
