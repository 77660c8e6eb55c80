%% SPDX-License-Identifier: Apache-2.0
%% A connection of Cowboy's without a socket: what it makes of bytes is told to a test.
-module(hornbeam_test_transport).

-behaviour(cowboy_stream).

-export([requests/2]).
%% Called by Cowboy.
-export([name/0, secure/0, messages/0, peername/1, sockname/1, setopts/2, send/2, shutdown/2, close/1]).
%% cowboy_stream
-export([init/3, data/4, info/3, terminate/3, early_error/5]).

-define(TIMEOUT_MS, 5000).

%% What Cowboy does with these bytes when they come on a new connection: requests, parts of their
%% bodies and answers of its own, in their order, and whether it still waits for more.
-spec requests(binary(), cowboy:opts()) ->
    {[{request, cowboy_req:req()} | {data, cowboy_stream:fin(), binary()} | {sent, binary()}],
     open | closed}.
requests(Bytes, Opts0) ->
    Tester = {self(), make_ref()},
    Opts = Opts0#{stream_handlers => [?MODULE], tester => Tester, request_timeout => infinity,
                  idle_timeout => infinity},
    Parent = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        %% It crashes over some things, which nobody has to read in the log.
        try
            cowboy_http:init(Parent, ref, Tester, ?MODULE, undefined, Opts)
        catch
            error:Reason -> exit(Reason)
        end
    end),
    Pid ! {tcp, Tester, Bytes},
    End = try sys:get_state(Pid, ?TIMEOUT_MS) of
        _ -> open
    catch
        exit:_ -> closed
    end,
    exit(Pid, kill),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    {told(element(2, Tester)), End}.

told(Ref) ->
    receive {Ref, What} -> [What | told(Ref)] after 0 -> [] end.

tell(What, {Pid, Ref}) ->
    Pid ! {Ref, What},
    ok.

name() -> tcp.
secure() -> false.
messages() -> {tcp, tcp_closed, tcp_error, tcp_passive}.
peername(_) -> {ok, {{127, 0, 0, 1}, 50000}}.
sockname(_) -> {ok, {{127, 0, 0, 1}, 8000}}.
setopts(_, _) -> ok.
send(Tester, Data) -> tell({sent, iolist_to_binary(Data)}, Tester).
shutdown(_, _) -> {error, closed}.
close(_) -> ok.

init(_, Req, #{tester := Tester}) ->
    ok = tell({request, Req}, Tester),
    {[], Tester}.

data(_, IsFin, Data, Tester) ->
    ok = tell({data, IsFin, Data}, Tester),
    {[], Tester}.

info(_, _, Tester) ->
    {[], Tester}.

terminate(_, _, _) ->
    ok.

early_error(_, _, _, Response, _) ->
    Response.
